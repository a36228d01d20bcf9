//! Every bound of the protocol and of the logic above it, in one place.
//!
//! These are defaults or hard ceilings. Where a configuration can lower or raise one, the configuration's
//! documentation says so and names the constant here.

/// Bytes of the length prefix in front of every v1 frame.
pub const FRAME_PREFIX_BYTES: usize = 4;
/// Largest body of one frame, in bytes. The call that a larger one is about fails with `PAYLOAD_TOO_LARGE`, and its bytes are skipped.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The least that a gateway's limit of frames may be set to, in bytes: with less, programs with a few methods could not register.
pub const FRAME_BYTES_MAX_MIN: usize = 1024;
/// First bytes of the body of a larger frame, in which it must stand which call it is about. They are all that is kept of it.
pub const OVERSIZE_HEAD_BYTES: usize = 4096;
/// Largest body that is skipped, in bytes. Whoever announces more does not speak our protocol, or nothing that would ever be wanted: the
/// connection is closed.
pub const OVERSIZE_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Deepest nesting of arrays and objects in any frame. Equal to what `serde_json` accepts by default.
pub const NESTING_MAX: usize = 128;

/// Longest service name, in bytes of UTF-8.
pub const SERVICE_NAME_BYTES_MAX: usize = 255;
/// Longest method name, in bytes of UTF-8.
pub const METHOD_NAME_BYTES_MAX: usize = 255;
/// Longest call id, in bytes of UTF-8.
pub const CALL_ID_BYTES_MAX: usize = 255;
/// Longest root id, in bytes of UTF-8.
pub const ROOT_ID_BYTES_MAX: usize = 255;
/// Most methods that one service may register.
pub const METHODS_MAX: usize = 4096;
/// Largest `metadata` of a registration, in encoded bytes.
pub const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Largest REGISTER body, in bytes. It holds [`METHODS_MAX`] names of ordinary length.
pub const REGISTER_BYTES_MAX: usize = 1024 * 1024;
/// Memory that all registrations together may take (methods, versions, metadata), in bytes.
pub const REGISTRY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most connections in one service's pool.
pub const POOL_SIZE_MAX: u32 = 64;

/// Deepest call chain: a call whose context is deeper is refused with `MAX_DEPTH_EXCEEDED`.
pub const DEPTH_MAX: u32 = 100;
/// Largest `context` of a call, in encoded bytes. It holds a legal chain of the longest names.
pub const CONTEXT_BYTES_MAX: usize = 64 * 1024;
/// Longer contexts of calls in flight are not kept for the answers that the gateway itself may have to give, in bytes.
pub const CONTEXT_ECHO_BYTES_MAX: usize = 1024;
/// Most entries in a context's chain. Larger than [`DEPTH_MAX`], since old clients write some entries twice.
pub const CHAIN_LEN_MAX: usize = 256;

/// Default time a call may take, in milliseconds.
pub const CALL_TIMEOUT_MS: u64 = 30_000;
/// Longest time a call may ask for, in milliseconds (one day); longer deadlines are shortened to it.
pub const CALL_TIMEOUT_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// Default interval between heartbeats, in milliseconds.
pub const HEARTBEAT_INTERVAL_MS: u64 = 30_000;
/// A service that has been silent for this many intervals is dropped.
pub const HEARTBEATS_MISSED_MAX: u64 = 3;
/// How long a fresh connection may stay without REGISTER, in milliseconds.
pub const REGISTER_TIMEOUT_MS: u64 = 10_000;
/// How long a client waits for the gateway to accept a connection, in milliseconds.
pub const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// How long a client waits for REGISTER_ACK, in milliseconds.
pub const REGISTER_ACK_TIMEOUT_MS: u64 = 5_000;
/// How long a frame may stay incomplete after its first byte, in milliseconds.
pub const PARTIAL_FRAME_TIMEOUT_MS: u64 = 30_000;
/// How long a peer may leave a non-empty outbound queue without taking a byte, in milliseconds.
pub const WRITE_STALL_TIMEOUT_MS: u64 = 30_000;
/// Default delay before the first reconnect attempt, in milliseconds.
pub const RECONNECT_DELAY_MS: u64 = 5_000;
/// Longest delay between reconnect attempts, in milliseconds.
pub const RECONNECT_DELAY_MAX_MS: u64 = 30_000;
/// Delay before the second attempt of a `connect` that waits for a gateway to appear, in milliseconds; it doubles.
pub const GATEWAY_WAIT_RETRY_MS: u64 = 20;
/// Longest delay between such attempts, in milliseconds.
pub const GATEWAY_WAIT_RETRY_MAX_MS: u64 = 500;

/// How long a call that waits for its service to appear does so when it is not said how long, in milliseconds. Less than
/// [`CALL_TIMEOUT_MS`], so that the error says what is missing.
pub const SERVICE_WAIT_MS: u64 = 10_000;
/// Pause before it is asked again for a service that calls wait for, in milliseconds, where the gateway does not tell by itself; it doubles.
pub const SERVICE_WAIT_RETRY_MS: u64 = 20;
/// Longest such pause, in milliseconds.
pub const SERVICE_WAIT_RETRY_MAX_MS: u64 = 500;
/// How long the answer of a service that is asked whether it is there is waited for, in milliseconds. One that is busy does not answer, but
/// one that is absent is reported at once.
pub const SERVICE_PROBE_TIMEOUT_MS: u64 = 1_000;
/// Most calls of one client that wait for their service to appear; further ones fail with `RESOURCE_EXHAUSTED`.
pub const WAITING_CALLS_MAX: usize = 16_384;
/// Bytes that a client keeps of calls that wait, or may have to; further ones fail with `RESOURCE_EXHAUSTED` instead of waiting.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most connections that a gateway serves at once.
pub const PEERS_MAX: usize = 65_536;
/// Most calls in flight in one gateway.
pub const IN_FLIGHT_MAX: usize = 1_048_576;
/// Most calls in flight that one connection may have made.
pub const IN_FLIGHT_PER_PEER_MAX: usize = 65_536;
/// Calls in flight to one connection above which new ones are refused with `OVERLOADED`; a quarter as many again are for callers of which none has
/// many. All are fewer than [`REQUESTS_MAX`], so that a flood is refused here, and not by a callee that refuses everybody.
pub const IN_FLIGHT_PER_CALLEE_MAX: usize = 49_152;
/// Most route numbers that a connection of version 2 may bind.
pub const ROUTES_PER_PEER_MAX: usize = 1024;
/// Bytes of the route names that all connections together may bind.
pub const ROUTES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most caller names that are told on a connection of version 2 before the earlier ones are forgotten.
pub const NAMES_PER_PEER_MAX: usize = 4096;
/// Bytes of the context sections of all calls in flight; beyond, calls that need one are refused.
pub const SECTIONS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most lanes that one gateway has given out.
pub const LANES_MAX: usize = 1024;
/// Most lanes of one connection.
pub const LANES_PER_PEER_MAX: usize = 64;
/// Bytes of shared memory that all lanes of one gateway may take when they are used to the full.
pub const LANES_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024;
/// Bytes of shared memory that the lanes of one connection may take: as many of default size as it may have.
pub const LANES_BYTES_PER_PEER_MAX: usize = LANES_PER_PEER_MAX * LANE_BYTES;
/// Calls from one peer to another within [`LANE_BUSY_WINDOW_MS`] that make the gateway offer them a lane.
pub const LANE_BUSY_CALLS: u32 = 256;
/// Window in which these calls are counted, in milliseconds.
pub const LANE_BUSY_WINDOW_MS: u64 = 1_000;
/// How long peers have for opening a lane that they were offered, in milliseconds.
pub const LANE_OPEN_TIMEOUT_MS: u64 = 10_000;
/// How long a pair that was offered a lane is not offered another, in milliseconds.
pub const LANE_RETRY_MS: u64 = 5_000;
/// Most calls that a client works on at once for others; further ones are answered `OVERLOADED`.
pub const REQUESTS_MAX: usize = 65_536;
/// Outbound bytes of a peer, CALLs not counted, above which the gateway stops reading from it until it has taken half of them.
pub const QUEUE_PAUSE_BYTES: usize = 4 * 1024 * 1024;
/// Outbound bytes of a peer above which new calls to it are refused with `OVERLOADED`.
pub const QUEUE_CALLS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Outbound bytes of a peer above which it is disconnected.
pub const QUEUE_BYTES_MAX: usize = 96 * 1024 * 1024;
/// Outbound bytes of a client above which its calls are refused with `OVERLOADED`.
pub const CLIENT_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that a client reads from a socket or a lane at once; of a lane, one record more.
pub const CLIENT_READ_BYTES_MAX: usize = 256 * 1024;
/// What a client hands out of what it has read shares the memory of that only if it is at least one of so many parts of it. Of smaller values it hands out
/// copies: a program that keeps a few bytes keeps only them.
pub const PINNED_PARTS_MAX: usize = 8;
/// Room in a client's queue above that and one frame, for the small errors that replace results when there is no
/// room for them, in bytes. Above it the connection is given up.
pub const CLIENT_QUEUE_ERRORS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes that a gateway keeps for its peers at most: what is queued to them, unfinished frames, calls, registrations, tables. See
/// `docs/decisions/0006-accounts.md` for what is not in it.
pub const MEMORY_MAX: usize = 1024 * 1024 * 1024;
/// Smallest [`MEMORY_MAX`] that may be configured, in bytes.
pub const MEMORY_MAX_MIN: usize = 1024 * 1024;
/// The last part of the memory, one of so many, is kept for answers and for frames that control something: new work gets none of it.
pub const MEMORY_RESERVE_PARTS: usize = 8;
/// How much of what the others leave of a shared resource one user may take, in percent.
pub const UID_SHARE_PERCENT: u8 = 75;
/// Most connections of one user.
pub const PEERS_PER_UID_MAX: usize = 49_152;
/// Users that a gateway knows at once. One is forgotten when nothing of it is left.
pub const ACCOUNTS_MAX: usize = 65_536;
/// Connections that one user may open at once, when it has opened none for a while.
pub const CONNECT_BURST: u32 = 16_384;
/// Connections that one user may open in the long run, in connections per second.
pub const CONNECT_RATE_PER_S: u32 = 1_000;
/// When memory is short, a peer that holds it without taking or finishing anything for this long is closed, in milliseconds.
pub const MEMORY_STALL_MS: u64 = 1_000;
/// While memory is short, those who hold most are looked for at most once in this time, in milliseconds.
pub const MEMORY_SEARCH_INTERVAL_MS: u64 = 10;
/// When so many bytes fewer are kept for peers than before, a gateway gives free memory back to the system.
pub const SPARE_BYTES_MIN: usize = 1024 * 1024;
/// How long it waits until it does so, in milliseconds: more may go meanwhile.
pub const SPARE_AFTER_MS: u64 = 1_000;
/// It waits at least so many times as long as that took the last time: this bounds which part of the time it takes.
pub const SPARE_TIME_PARTS: u64 = 100;
/// An unfinished frame of so many bytes is kept although memory is short: it may be an answer.
pub const PARTIAL_FREE_BYTES: usize = 64 * 1024;
/// Half as much again as [`QUEUE_CALLS_BYTES_MAX`] may be queued to a callee by callers of which none has so many calls in flight, and a quarter as
/// many again as [`IN_FLIGHT_PER_CALLEE_MAX`] may be in flight to it.
pub const CROWDED_CALLS_PER_PEER_MAX: usize = 16;
/// The second half of that is for users of which none has so many calls in flight.
pub const CROWDED_CALLS_PER_UID_MAX: usize = 256;
/// What a connection is charged for being there, in bytes, registered or not.
pub const PEER_CHARGE_BYTES: usize = 1024;
/// What a call in flight is charged to its caller beside its texts, in bytes.
pub const CALL_CHARGE_BYTES: usize = 256;

/// Most parked introspection calls (`waitFor`, `events`) in one gateway.
pub const PARKED_MAX: usize = 4096;
/// Most parked introspection calls of one connection.
pub const PARKED_PER_PEER_MAX: usize = 64;
/// Bytes of what one thing that happens may give to parked introspection calls. Further ones that wait for a service are told
/// `RESOURCE_EXHAUSTED`; further ones that wait for events have to ask once more.
pub const PARKED_ANSWERS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of a list in one answer of the gateway's own, at which it ends: making it takes the gateway's time, and asking is cheap. Lists of services
/// that are longer are refused with `PAYLOAD_TOO_LARGE`; lists of events go on in the next answer.
pub const INTROSPECTION_LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of the names of services in one `status`, at which they end; it says how many it leaves out. Room for some ten thousand ordinary names.
pub const STATUS_NAMES_BYTES_MAX: usize = 256 * 1024;
/// Most services that `status` tells of that somebody waits for.
pub const WAITED_FOR_SHOWN_MAX: usize = 64;
/// Largest `params` of an introspection call, in encoded bytes.
pub const INTROSPECTION_PARAMS_BYTES_MAX: usize = 64 * 1024;
/// Longest time an introspection call may be parked, in milliseconds.
pub const PARKED_TIMEOUT_MAX_MS: u64 = 10 * 60 * 1000;
/// Events that the gateway keeps for those who watch it.
pub const EVENT_LOG_LEN_MAX: usize = 16_384;
/// Bytes of the events that the gateway keeps for those who watch it.
pub const EVENT_LOG_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most events in the answer to one `events` call.
pub const EVENTS_PER_POLL_MAX: usize = 1024;
/// A watcher that has not asked for events for this long no longer counts as watching, in milliseconds.
pub const WATCH_LEASE_MS: u64 = 10_000;

/// Most characters that a client keeps of what a gateway says before it closes the connection.
pub const FAREWELL_CHARS_MAX: usize = 512;
/// Largest file of options (`bro gateway --config`), in bytes.
pub const CONFIG_BYTES_MAX: usize = 64 * 1024;
/// Largest policy file, in bytes.
pub const POLICY_BYTES_MAX: usize = 256 * 1024;
/// Most rules of a policy.
pub const POLICY_RULES_MAX: usize = 256;
/// Most patterns of service and method names in a policy.
pub const POLICY_PATTERNS_MAX: usize = 4096;
/// Most users and groups that a policy names: each name is looked up.
pub const POLICY_ACCOUNTS_MAX: usize = 1024;
/// Most supplementary groups of a peer that are looked at. A peer in more has the rights of its user and its first group only.
pub const PEER_GROUPS_MAX: usize = 1024;

/// Longest path of a socket, in bytes: what the kernel's address holds, without the closing zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Connections that may wait to be accepted by a gateway.
pub const LISTEN_BACKLOG: i32 = 4096;
/// How long a gateway does not accept after it ran out of file descriptors or memory for it, in milliseconds.
pub const ACCEPT_BACKOFF_MS: u64 = 250;
/// What a gateway does of what is overdue before it looks at its sockets again: calls that end at the same moment must not hold up all others.
pub const TIMERS_PER_INPUT_MAX: usize = 4096;
/// Calls that a gateway ends together before it looks at its sockets again, since their callee, their caller or the call that they were made for
/// has ended: one connection may take hundreds of thousands along.
pub const ENDS_PER_INPUT_MAX: usize = 4096;
/// A gateway that wakes up so much too late looks at its sockets once more before it does what is overdue, in milliseconds.
pub const LOOK_AGAIN_MS: u64 = 20;
/// A gateway that wakes up so much too late was not running: nobody could be heard meanwhile, in milliseconds.
pub const OVERSLEPT_MS: u64 = 1_000;
/// How long such a gateway reads what has arrived before it does what is overdue, in milliseconds.
pub const CATCH_UP_MS: u64 = 1_000;
/// A warning is logged when something that was ready waited longer than this for the gateway's thread, in milliseconds.
pub const LOOP_LAG_WARN_MS: u64 = 250;
/// Such warnings are at least so far apart, in milliseconds; those left out are counted.
pub const LOOP_LAG_WARN_INTERVAL_MS: u64 = 10_000;
/// The lag that a gateway reports is that of the present window and of the one before, in milliseconds.
pub const LOOP_LAG_WINDOW_MS: u64 = 60_000;
/// How old the lag that a gateway reports may be, in milliseconds.
pub const LOOP_LAG_AGE_MAX_MS: u64 = 100;
/// Longer lags count as this one, in microseconds (an hour).
pub const LOOP_LAG_MAX_US: u64 = 3_600_000_000;
/// How long a connection that the gateway has closed is kept, for its peer to take what was sent to it, in milliseconds.
pub const LINGER_MS: u64 = 2_000;
/// Bytes that are read and thrown away from such a connection. A peer that writes one frame of twice the accepted size
/// without reading can finish, and then read why it was refused.
pub const LINGER_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// Most such connections; further ones are cut off at once. One user has at most its share ([`UID_SHARE_PERCENT`]) of what the others leave.
pub const LINGERING_MAX: usize = 256;
/// Memory that such connections hold for what is still to be written to them, in bytes; a connection that holds more is cut off at once.
pub const LINGERING_QUEUED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a stopping gateway keeps connections to which something is still to be written, in milliseconds.
pub const STOP_LINGER_MS: u64 = 500;
/// How long a draining gateway lets calls in flight finish, in milliseconds.
pub const DRAIN_TIMEOUT_MS: u64 = 5_000;
/// How long a draining client waits for the calls it works on, in milliseconds.
pub const CLIENT_DRAIN_TIMEOUT_MS: u64 = 30_000;
/// Most commands that wait for a gateway's thread; who gives one more waits.
pub const COMMANDS_MAX: usize = 256;
/// How long a gateway that hands over waits for the other one, in milliseconds. Nobody is served meanwhile; afterwards it goes on.
pub const TAKEOVER_TIMEOUT_MS: u64 = 5_000;
/// How long takeovers that fail may hold a gateway up in a row, in milliseconds: three that are waited for to the end. Who asks for another one is told how
/// long that is to wait.
pub const TAKEOVER_LOST_MS_MAX: u64 = 3 * TAKEOVER_TIMEOUT_MS;
/// Of that, one part of so many of the time that passes is given back: the part of its time for which failed takeovers can hold a gateway up in the long run.
pub const TAKEOVER_LOST_PARTS: u64 = 20;
/// How long a gateway waits for the one that it has started to take over, in milliseconds: afterwards it would start another.
pub const SUCCESSOR_TIMEOUT_MS: u64 = 30_000;
/// How long a gateway that hands over waits until its service manager has heard of the new process, in milliseconds; and the new one for its end.
pub const SERVICE_HANDOVER_TIMEOUT_MS: u64 = 5_000;
/// Descriptors that go with one message of a takeover: as many as the kernel takes.
pub const TAKEOVER_DESCRIPTORS_PER_MESSAGE: usize = 253;
/// Descriptors that a gateway must be able to open beyond those that it takes over.
pub const TAKEOVER_SPARE_DESCRIPTORS: u64 = 64;
/// Largest state of a takeover, queued bytes not counted.
pub const TAKEOVER_STATE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// Most warnings that a gateway logs at once; afterwards one a second, with the number of those left out.
pub const WARNINGS_LOGGED_MAX: u64 = 20;

/// Default bytes of a lane's ring, one for each direction. Both rings stay in a core's cache.
pub const LANE_RING_BYTES: usize = 128 * 1024;
/// Smallest ring of a lane, in bytes: a page.
pub const LANE_RING_BYTES_MIN: usize = 4096;
/// Largest ring of a lane, in bytes.
pub const LANE_RING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Default bytes of a lane's arena, one for each direction, through which large records go. Its pages take memory once used.
pub const LANE_ARENA_BYTES: usize = 4 * 1024 * 1024;
/// What comes before the rings in a lane's memory, in bytes: a page.
pub const LANE_HEAD_BYTES: usize = 4096;
/// Bytes of shared memory of a lane of default size, all of it used.
pub const LANE_BYTES: usize = LANE_HEAD_BYTES + 2 * (LANE_RING_BYTES + LANE_ARENA_BYTES);
/// Smallest arena of a lane, in bytes.
pub const LANE_ARENA_BYTES_MIN: usize = 64 * 1024;
/// Largest arena of a lane, in bytes.
pub const LANE_ARENA_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest record that goes through a lane's ring, in bytes; larger ones go through its arena. Measured: at 8 KiB the ring is 4% faster, at
/// 16 KiB the arena is 5% faster, and its slowest answers come in half the time.
pub const LANE_INLINE_BYTES_MAX: usize = 8 * 1024;
/// Largest record of any lane, in bytes. A record must also fit the arena; larger frames go through the gateway.
pub const LANE_RECORD_BYTES_MAX: usize = FRAME_BYTES_MAX;
/// Default time that one wait on a lane may spin before it sleeps, in microseconds.
pub const LANE_SPIN_US: u64 = 20;
/// Longest time that one wait on a lane may spin, in microseconds.
pub const LANE_SPIN_US_MAX: u64 = 1_000;
/// Spins that were won in a row count at most this many times: so many lost ones in a row end the spinning.
pub const LANE_SPIN_TRUST_MAX: u32 = 8;
/// Most waits that sleep at once, between two that try whether spinning pays off again.
pub const LANE_SPIN_SKIPS_MAX: u32 = 256;
/// How long nobody spins after others wanted the CPU, in milliseconds; it doubles while they still do.
pub const LANE_SPIN_HOLD_MS: u64 = 10;
/// Longest time without spinning after others wanted the CPU, in milliseconds.
pub const LANE_SPIN_HOLD_MAX_MS: u64 = 1_000;

/// Service names with this prefix belong to the gateway; nobody else may register one.
pub const RESERVED_PREFIX: &str = "bro.";
/// The service that answers introspection calls.
pub const GATEWAY_SERVICE: &str = "bro.gateway";
/// The method that every client of ours answers by itself, to measure a round trip.
pub const PING_METHOD: &str = "bro.ping";

const _: () = {
    assert!(LOOK_AGAIN_MS < OVERSLEPT_MS);
    assert!(FRAME_BYTES_MAX <= u32::MAX as usize, "the prefix has 32 bits");
    assert!(FRAME_BYTES_MAX < OVERSIZE_BYTES_MAX && OVERSIZE_BYTES_MAX <= u32::MAX as usize);
    assert!(OVERSIZE_HEAD_BYTES < PARTIAL_FREE_BYTES, "what is kept of a frame above the limit is little");
    assert!(REGISTER_BYTES_MAX <= FRAME_BYTES_MAX);
    assert!(
        2 * REGISTER_BYTES_MAX < INTROSPECTION_LIST_BYTES_MAX,
        "a list has room for the largest service, also as JSON"
    );
    assert!(INTROSPECTION_LIST_BYTES_MAX <= PARKED_ANSWERS_BYTES_MAX && INTROSPECTION_LIST_BYTES_MAX < FRAME_BYTES_MAX);
    assert!(METADATA_BYTES_MAX <= REGISTER_BYTES_MAX);
    assert!(CHAIN_LEN_MAX >= 2 * DEPTH_MAX as usize, "a legal old chain fits");
    assert!(QUEUE_PAUSE_BYTES < QUEUE_CALLS_BYTES_MAX);
    assert!(QUEUE_CALLS_BYTES_MAX / 2 * 3 + FRAME_BYTES_MAX < QUEUE_BYTES_MAX, "a call admitted below the limit fits");
    assert!(IN_FLIGHT_PER_PEER_MAX <= IN_FLIGHT_MAX);
    assert!(IN_FLIGHT_PER_CALLEE_MAX + IN_FLIGHT_PER_CALLEE_MAX / 4 < REQUESTS_MAX);
    assert!(QUEUE_BYTES_MAX < MEMORY_MAX / MEMORY_RESERVE_PARTS, "one peer cannot take the reserve");
    assert!(PEERS_PER_UID_MAX <= PEERS_MAX && UID_SHARE_PERCENT > 0 && UID_SHARE_PERCENT <= 100);
    assert!(WAITING_CALLS_MAX < IN_FLIGHT_PER_PEER_MAX, "calls that wait leave room for others");
    assert!(SERVICE_WAIT_MS < CALL_TIMEOUT_MS && SERVICE_WAIT_RETRY_MS <= SERVICE_WAIT_RETRY_MAX_MS);
    assert!(POLICY_RULES_MAX <= u16::MAX as usize, "rights name rules by 16 bits");
    assert!(
        LANES_BYTES_PER_PEER_MAX < LANES_BYTES_MAX / 100 * UID_SHARE_PERCENT as usize,
        "one connection leaves others some"
    );
    assert!(LANE_RING_BYTES_MIN <= LANE_RING_BYTES && LANE_RING_BYTES <= LANE_RING_BYTES_MAX);
    assert!(LANE_RING_BYTES_MIN.is_power_of_two() && LANE_RING_BYTES.is_power_of_two());
    assert!(LANE_ARENA_BYTES_MIN <= LANE_ARENA_BYTES && LANE_ARENA_BYTES <= LANE_ARENA_BYTES_MAX);
    assert!(LANE_ARENA_BYTES_MIN.is_power_of_two() && LANE_ARENA_BYTES.is_power_of_two());
    assert!(LANE_INLINE_BYTES_MAX <= LANE_RING_BYTES / 8, "several of the largest fit the ring");
    assert!(LANE_RECORD_BYTES_MAX <= LANE_ARENA_BYTES_MAX && LANE_ARENA_BYTES_MAX <= u32::MAX as usize);
    assert!(LANE_SPIN_US <= LANE_SPIN_US_MAX && LANE_SPIN_HOLD_MS <= LANE_SPIN_HOLD_MAX_MS);
};
