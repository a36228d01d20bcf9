//! Calls that this client makes.

use crate::calls::{CallId, CallKey, NOWHERE, Pending};
use crate::conns::ConnId;
use crate::context::write_child;
use crate::requests::{Echo, RequestId};
use crate::session::{Session, Timer, append_error, check_depth, check_reach, later_ms, too_large, unsendable};
use bro_proto::context::{CallContext, deadline_ms};
use bro_proto::error::{ErrorBody, ErrorCode};
use bro_proto::id::write_id;
use bro_proto::limits::{CHAIN_LEN_MAX, FRAME_PREFIX_BYTES};
use bro_proto::name::{check_method_name, check_service_name};
use bro_proto::time::Now;
use bro_proto::v1::encode::{CallFields, ContextSource, encode_call};
use bro_proto::v1::{Payload, check_nesting};
use bro_proto::v2::encode::CallHead;
use bro_proto::v2::{self, CALL_HEAD_BYTES, CancelReason, Codec, FrameKind, RootStamp, WireError, section};

/// A call to be made.
///
/// Where it continues a chain, the first of these that applies counts: `context`, `request`, `parent`.
#[derive(Clone, Copy, Debug)]
pub struct CallRequest<'a> {
    /// The service to call.
    pub to: &'a str,
    /// The method to call.
    pub method: &'a str,
    /// The parameters; empty bytes leave them out.
    pub params: Payload<'a>,
    /// The request that this call is made for. While it is in work, the call continues its chain, its deadline holds, and in version 2
    /// the call ends when the request does before it is answered. A call for a request that its caller has given up fails
    /// with `CANCELLED`, or with `DEADLINE_EXCEEDED`. Of a request that was answered nothing is known any more: `parent` counts.
    pub request: Option<RequestId>,
    /// The context of the request that this call is made for. It is extended by `to`, and its deadline holds.
    pub parent: Option<&'a CallContext>,
    /// A context to be sent as it is, instead of an extended or a new one.
    pub context: Option<&'a CallContext>,
    /// Time the call may take, in milliseconds, if not the configured one.
    pub timeout_ms: Option<u64>,
    /// How long it waits for its service to appear when that is not there, in milliseconds, if not as long as configured; 0: not at all. The
    /// wait is part of the time that the call may take. Notifications do not wait: nobody learns that their service is not there.
    pub wait_ms: Option<u64>,
}

impl<'a> CallRequest<'a> {
    /// A call that begins a chain and may take the configured time.
    pub fn new(to: &'a str, method: &'a str, params: Payload<'a>) -> Self {
        Self { to, method, params, request: None, parent: None, context: None, timeout_ms: None, wait_ms: None }
    }
}

/// Which chain a call belongs to.
#[derive(Clone, Copy)]
pub(crate) enum Lineage<'a> {
    /// It begins one.
    Begins,
    /// That of a request in work.
    InWork(RequestId),
    /// It goes on from here.
    Continues(&'a CallContext),
    /// Exactly this.
    Is(&'a CallContext),
}

/// What the head of a call of version 2 says of its chain, besides the scratch section.
#[derive(Clone, Copy, Default)]
struct Prepared {
    /// The gateway's number of the call that it is made for, or 0.
    parent: u64,
    /// The stamp of the chain that begins on a lane, or 0.
    root: u64,
}

/// Where a call that may be made goes.
pub(crate) struct Aim<'a> {
    conn: ConnId,
    lineage: Lineage<'a>,
    timeout_ms: u64,
}

/// Commands.
impl Session {
    /// Makes a call. After an error nothing was sent, and no event follows.
    ///
    /// One that may wait ([`CallRequest::wait_ms`]) and has to is kept, and sent when its service appears, behind the calls that wait for it
    /// already. It ends with `SERVICE_NOT_FOUND` when it has waited long enough, with `NOT_CONNECTED` when there is no gateway then, or none
    /// will be any more, with `TIMEOUT` at its deadline, and with `RESOURCE_EXHAUSTED` when too many wait.
    pub fn call(&mut self, call: CallRequest<'_>, now: Now) -> Result<CallId, ErrorBody> {
        self.now = now;
        match call.wait_ms.unwrap_or(self.config.wait_for_service_ms) {
            0 => self.start_call(&call, now),
            wait_ms => self.call_patiently(&call, wait_ms, now),
        }
    }

    /// Makes a call without answer: nobody learns whether it arrived, and no event follows. On a connection of version 1 it
    /// goes out as a call whose answer is ignored. After an error nothing was sent.
    pub fn notify(&mut self, call: CallRequest<'_>, now: Now) -> Result<(), ErrorBody> {
        self.now = now;
        let aim = self.admit_call(&call, false, now)?;
        if self.pool.speaks_v2(aim.conn) {
            let lineage = self.prepare_section(&call, &aim)?;
            self.check_size(&call)?;
            self.write_numbered(&call, &aim, FrameKind::Notify, 0, lineage);
        } else {
            self.prepare_context(&call, aim.lineage, now);
            self.id_text.clear();
            self.calls.write_note(now.wall_ms, &mut self.id_text).expect("writing to a string");
            self.write_text(&call, &aim)?;
        }
        self.queued(aim.conn, now);
        self.counters.notifications += 1;
        Ok(())
    }

    /// Gives a call up: no event will come for it, and in version 2 its callee is told. False when it has ended already; then its
    /// event is on the way.
    pub fn cancel(&mut self, id: CallId, now: Now) -> bool {
        self.now = now;
        let Some(pending) = self.take_call(id) else { return false };
        self.send_cancel(&pending, CancelReason::Cancelled, now);
        true
    }
}

impl Session {
    /// Makes a call that goes out now or not at all.
    pub(crate) fn start_call(&mut self, call: &CallRequest<'_>, now: Now) -> Result<CallId, ErrorBody> {
        let aim = self.admit_call(call, true, now)?;
        let id = self.send_call(call, &aim, None, now)?;
        let timer = self.timers.insert(later_ms(now, aim.timeout_ms), Timer::Call(id));
        self.calls.set_timer(id, timer);
        self.counters.calls += 1;
        Ok(id)
    }

    /// Queues the frame of a call: of a new one, or of one that has waited (`again`). After an error the latter is as it was.
    pub(crate) fn send_call(
        &mut self,
        call: &CallRequest<'_>,
        aim: &Aim<'_>,
        again: Option<CallId>,
        now: Now,
    ) -> Result<CallId, ErrorBody> {
        let Aim { conn, timeout_ms, .. } = *aim;
        let id = if self.pool.speaks_v2(conn) {
            let lineage = self.prepare_section(call, aim)?;
            self.check_size(call)?;
            let (id, number) = match again {
                Some(id) => (id, self.calls.renumber(id, conn)),
                None => self.calls.insert_numbered(conn, timeout_ms),
            };
            self.write_numbered(call, aim, FrameKind::Call, number.to_wire(), lineage);
            self.note_child(aim, id);
            id
        } else {
            self.prepare_context(call, aim.lineage, now);
            let (id, key) = match again {
                Some(id) => (id, self.calls.rename(id, conn, now.wall_ms)),
                None => self.calls.insert(conn, timeout_ms, now.wall_ms),
            };
            self.id_text.clear();
            key.write(&mut self.id_text).expect("writing to a string");
            if let Err(error) = self.write_text(call, aim) {
                match again {
                    Some(id) => drop(self.calls.renumber(id, NOWHERE)),
                    None => drop(self.calls.remove(id)),
                }
                return Err(error);
            }
            id
        };
        self.queued(conn, now);
        Ok(id)
    }

    /// Where a call of this session's own goes.
    pub(crate) fn own_aim(conn: ConnId, timeout_ms: u64) -> Aim<'static> {
        Aim { conn, lineage: Lineage::Begins, timeout_ms }
    }

    /// Tells whoever works on a call of version 2 that nobody waits for it any more.
    pub(crate) fn send_cancel(&mut self, pending: &Pending, reason: CancelReason, now: Now) {
        if let CallKey::V2(number) = pending.key
            && let Some(conn) = self.pool.open(pending.conn)
        {
            conn.outbound.extend(|out| v2::encode::cancel(out, number.to_wire(), reason));
            self.queued_unasked(pending.conn, now);
        }
    }

    /// Remembers a call that this session has to end with the request that it was made for.
    fn note_child(&mut self, aim: &Aim<'_>, id: CallId) {
        let is_on_lane = aim.conn.is_lane();
        if is_on_lane {
            self.lane_taken(aim.conn);
        }
        let Lineage::InWork(parent) = aim.lineage else { return };
        let needs_us = |conn: ConnId| is_on_lane || conn.is_lane();
        if self.requests.get(parent).is_some_and(|in_work| needs_us(in_work.conn)) {
            self.add_child(parent, id);
        }
    }

    /// The call ends at the latest when the request is given up.
    pub(crate) fn add_child(&mut self, parent: RequestId, id: CallId) {
        let Session { requests, calls, .. } = self;
        let Some(in_work) = requests.get_mut(parent) else { return };
        if in_work.children.len() == in_work.children.capacity() {
            in_work.children.retain(|&child| calls.contains(child));
        }
        in_work.children.push(id);
    }

    /// Everything that can be wrong with a call, but for what shows when it is written.
    pub(crate) fn admit_call<'a>(
        &mut self,
        call: &CallRequest<'a>,
        takes_slot: bool,
        now: Now,
    ) -> Result<Aim<'a>, ErrorBody> {
        self.check_call_names(call)?;
        // A lane needs no gateway.
        let lane = self.pool.lane_to(call.to, self.config.queue_bytes_max);
        if !self.announced && lane.is_none() {
            return Err(ErrorBody::new(ErrorCode::NotConnected, "not connected to the gateway"));
        }
        let (lineage, timeout_ms) = self.check_call(call, takes_slot, now)?;
        // A call that is made for another goes where the answer to that will go, so that it cannot arrive behind it.
        let preferred = match lineage {
            _ if lane.is_some() => lane,
            Lineage::InWork(id) => self.requests.get(id).map(|in_work| in_work.conn).filter(|conn| !conn.is_lane()),
            _ => None,
        };
        let queue_bytes_max = self.config.queue_bytes_max;
        let preferred =
            preferred.filter(|&conn| self.pool.speaks_v2(conn) && self.pool.has_room(conn, queue_bytes_max));
        let Some(conn) = preferred.or_else(|| self.pool.pick(queue_bytes_max)) else {
            let why = format!("{queue_bytes_max} bytes wait for the gateway to read them");
            return Err(ErrorBody::new(ErrorCode::Overloaded, why));
        };
        Ok(Aim { conn, lineage, timeout_ms })
    }

    /// What of it does not depend on where the call goes; gives its chain, and the time that it may take.
    pub(crate) fn check_call<'a>(
        &self,
        call: &CallRequest<'a>,
        takes_slot: bool,
        now: Now,
    ) -> Result<(Lineage<'a>, u64), ErrorBody> {
        let (lineage, timeout_ms) = self.lineage(call, now)?;
        if takes_slot && self.calls.is_full() {
            let why = format!("{} calls wait for their answer already", self.calls.len_max());
            return Err(ErrorBody::new(ErrorCode::ResourceExhausted, why));
        }
        let config = &self.config;
        if call.params.encoding == config.encoding && call.params.bytes.len() > config.frame_bytes_max {
            return Err(too_large(call.params.bytes.len(), config.frame_bytes_max));
        }
        check_nesting(call.params).map_err(unsendable)?;
        Ok((lineage, timeout_ms))
    }

    /// The chain that a call belongs to, and the time that it may take.
    pub(crate) fn lineage<'a>(&self, call: &CallRequest<'a>, now: Now) -> Result<(Lineage<'a>, u64), ErrorBody> {
        let timeout_ms = self.config.call_timeout_ms(call.timeout_ms);
        if let Some(given) = call.context {
            given.validate()?;
            check_reach(given.depth, given.deadline_ms, now)?;
            return Ok((Lineage::Is(given), timeout_ms.min(given.remaining_ms(now))));
        }
        if let Some(id) = call.request {
            if let Some(in_work) = self.requests.get(id) {
                let Some(left_ms) = in_work.due_ms.checked_sub(later_ms(now, 0)) else {
                    return Err(ErrorBody::new(ErrorCode::DeadlineExceeded, "the deadline of the request has passed"));
                };
                check_depth(in_work.context.depth().saturating_add(1))?;
                return Ok((Lineage::InWork(id), timeout_ms.min(left_ms)));
            }
            match self.requests.given_up(id) {
                Some(CancelReason::Deadline) => {
                    return Err(ErrorBody::new(ErrorCode::DeadlineExceeded, "the deadline of the request has passed"));
                }
                Some(CancelReason::Cancelled | CancelReason::CallerGone) => {
                    return Err(ErrorBody::new(ErrorCode::Cancelled, "nobody waits for the request any more"));
                }
                None => {}
            }
        }
        let Some(parent) = call.parent else { return Ok((Lineage::Begins, timeout_ms)) };
        check_reach(parent.depth.saturating_add(1), parent.deadline_ms, now)?;
        if parent.chain.len() >= CHAIN_LEN_MAX {
            let why =
                format!("the call chain has {} entries, at most {CHAIN_LEN_MAX} are accepted", parent.chain.len());
            return Err(ErrorBody::new(ErrorCode::MaxDepthExceeded, why));
        }
        Ok((Lineage::Continues(parent), timeout_ms.min(parent.remaining_ms(now))))
    }

    /// Whether the names are names. Those of the call before are, and mostly they are the same.
    pub(crate) fn check_call_names(&mut self, call: &CallRequest<'_>) -> Result<(), ErrorBody> {
        let (to, method) = &mut self.names_checked;
        // Before the first call they are empty, which is no name.
        if to != call.to || method != call.method || to.is_empty() {
            check_names(call.to, call.method)?;
            call.to.clone_into(to);
            call.method.clone_into(method);
        }
        Ok(())
    }

    /// Whether the frame of a call of version 2 is within its limit.
    fn check_size(&self, call: &CallRequest<'_>) -> Result<(), ErrorBody> {
        let head_bytes = CALL_HEAD_BYTES - FRAME_PREFIX_BYTES;
        let body_bytes = head_bytes + call.method.len() + self.section.len() + call.params.bytes.len();
        let limit = self.config.frame_bytes_max;
        if body_bytes > limit { Err(too_large(body_bytes, limit)) } else { Ok(()) }
    }

    /// Queues a call of version 2, and the binding of its route if need be.
    fn write_numbered(
        &mut self,
        call: &CallRequest<'_>,
        aim: &Aim<'_>,
        kind: FrameKind,
        id: u64,
        Prepared { parent, root }: Prepared,
    ) {
        let conn = self.pool.at(aim.conn.index as usize);
        let link = conn.v2.as_mut().expect("the connection speaks version 2");
        // At the other end of a lane is the callee, which gets what a gateway would make of the call.
        let (origin, route, is_new) = if aim.conn.is_lane() {
            (id, 0, false)
        } else {
            let (route, is_new) = link.routes.number(call.to);
            (parent, route, is_new)
        };
        // 0 would be as long as the gateway likes.
        let timeout_ms = u32::try_from(aim.timeout_ms.max(1)).expect("a day has fewer than 2^32 ms");
        let section = self.section.as_slice();
        let codec = Codec::of(call.params);
        let head = CallHead { kind, id, origin, root, peer: route, timeout_ms, method: call.method, section, codec };
        conn.outbound.extend(|out| {
            if is_new {
                v2::encode::resolve(out, route, call.to);
            }
            v2::encode::call_head(out, &head, call.params.bytes.len());
            out.extend_from_slice(call.params.bytes);
        });
    }

    /// Queues a call of version 1 with the id and the context in the scratch space.
    fn write_text(&mut self, call: &CallRequest<'_>, aim: &Aim<'_>) -> Result<(), ErrorBody> {
        let Session { config, pool, context, id_text, .. } = self;
        let fields = CallFields {
            id: id_text,
            from: &config.service_name,
            to: call.to,
            method: call.method,
            params: call.params,
            context: ContextSource::Owned(call.context.unwrap_or(context)),
        };
        let outbound = &mut pool.at(aim.conn.index as usize).outbound;
        let queued = outbound.append(config.frame_bytes_max, |out| encode_call(out, config.encoding, &fields));
        queued.map_err(|error| append_error(error, config.frame_bytes_max))
    }

    /// Fills the scratch section for a call of version 2, unless the gateway knows it, or the chain begins.
    fn prepare_section(&mut self, call: &CallRequest<'_>, aim: &Aim<'_>) -> Result<Prepared, ErrorBody> {
        let is_on_lane = aim.conn.is_lane();
        let Session { section: out, requests, config, .. } = self;
        out.clear();
        let written = match aim.lineage {
            Lineage::Begins if is_on_lane => {
                self.roots = self.roots.wrapping_add(1);
                return Ok(Prepared { parent: 0, root: RootStamp::new(self.now.wall_ms, self.roots).0 });
            }
            Lineage::Begins => Ok(()),
            Lineage::Continues(parent) => write_child(parent, call.to, out),
            Lineage::Is(given) => section::write(out, &given.root, given.depth, given.chain.iter().map(String::as_str)),
            Lineage::InWork(id) => {
                let in_work = requests.get(id).expect("in work a moment ago");
                if let Echo::V2 { number } = in_work.echo
                    && !is_on_lane
                    && !in_work.conn.is_lane()
                {
                    return Ok(Prepared { parent: number, root: 0 });
                }
                in_work.context.write_child(&in_work.from, &config.service_name, call.to, out)
            }
        };
        written
            .map(|()| Prepared::default())
            .map_err(|error: WireError| ErrorBody::new(ErrorCode::InvalidContext, error.to_string()))
    }

    /// Fills the scratch context for a call of version 1, unless the call brings its own. Reuses the memory of the scratch context:
    /// this runs for every such call.
    fn prepare_context(&mut self, call: &CallRequest<'_>, lineage: Lineage<'_>, now: Now) {
        let timeout_ms = self.config.call_timeout_ms(call.timeout_ms);
        let whole: CallContext;
        let parent = match lineage {
            Lineage::Is(_) => return,
            Lineage::Begins => None,
            Lineage::Continues(parent) => Some(parent),
            Lineage::InWork(id) => {
                let in_work = self.requests.get(id).expect("in work a moment ago");
                whole = in_work.context.to_context(&in_work.from, &self.config.service_name);
                Some(&whole)
            }
        };
        let context = &mut self.context;
        context.root.clear();
        let mut chain = std::mem::take(&mut context.chain);
        let mut len = 0;
        let mut add = |name: &str| {
            match chain.get_mut(len) {
                Some(entry) => {
                    entry.clear();
                    entry.push_str(name);
                }
                None => chain.push(name.to_owned()),
            }
            len += 1;
        };
        context.deadline_ms = deadline_ms(timeout_ms, now);
        match parent {
            Some(parent) => {
                context.root.push_str(&parent.root);
                parent.chain.iter().for_each(|name| add(name));
                context.depth = parent.depth.saturating_add(1);
                context.deadline_ms = context.deadline_ms.min(parent.deadline_ms);
            }
            None => {
                let tail = self.rng.below(36_u64.pow(6));
                write_id(&mut context.root, "root", now.wall_ms, tail).expect("writing to a string");
                add(&self.config.service_name);
                context.depth = 2;
            }
        }
        add(call.to);
        chain.truncate(len);
        context.chain = chain;
    }
}

fn check_names(to: &str, method: &str) -> Result<(), ErrorBody> {
    let refuse = |what: &str, error| ErrorBody::new(ErrorCode::InvalidArgument, format!("{what}: {error}"));
    check_service_name(to).map_err(|error| refuse("service name", error))?;
    check_method_name(method).map_err(|error| refuse("method name", error))
}
