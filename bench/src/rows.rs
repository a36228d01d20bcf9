//! What is compared. A row is one way to bring a call to another process and its answer back.

use crate::ends::Kind;
use crate::figures::Measurement;
use crate::v1::Shape;
use crate::{fairness, idle, lane, routes};
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// One row, or a group of them that one function measures.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) way: Way,
    /// Cases that it takes part in; nothing for functions, which have their own.
    pub(crate) cases: Vec<Work>,
}

/// How a row is measured.
pub(crate) enum Way {
    /// Processes that call each other.
    Calls { middle: Middle, ends: Ends },
    /// One function, which may start processes of its own.
    Function(fn(&Plan) -> Result<Vec<Measurement>>),
    /// The same in the first round only: it takes long, and gives the same every time.
    Once(fn(&Plan) -> Result<Vec<Measurement>>),
}

/// The process between caller and callee.
#[derive(Clone, Debug)]
pub(crate) enum Middle {
    /// None: the callee listens, callers connect to it.
    Nothing,
    Relay,
    /// Of this checkout. With lanes: every pair gets one.
    Gateway {
        has_lanes: bool,
    },
    /// `PROGRAM gateway`, of another build, without lanes.
    OtherGateway {
        program: PathBuf,
        knows_lanes: bool,
    },
    /// A server of the system that the ends speak.
    Server,
}

/// What caller and callee are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ends {
    /// This program.
    Ours(Kind),
    /// `bench/peers`, in this system.
    Peer(&'static str),
}

/// What the processes of one run do. Each has a case for every number of calls in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Frames of ordinary length: 1, 64 and 512 in flight, from so many callers each.
    Calls { callers: u8 },
    /// A text of [`crate::turns::TEXT_BYTES`] there and back, by what programs use: 1, 64 and 512 in flight.
    Text,
    /// One caller that makes one call at a time, beside three with 64 in flight.
    Fairness,
    /// Frames of about so many MiB there and back, one at a time.
    Large { mib: usize },
}

/// How long and how often.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Before a span is measured, callers run for this long.
    pub(crate) warm_up: Duration,
    pub(crate) span: Duration,
    pub(crate) services: u64,
    pub(crate) shape: Shape,
    /// The program of `bench/peers`, when it was built.
    pub(crate) peers: Option<PathBuf>,
}

/// The floor under version 1, and what it is for the two kinds of frames of version 2.
pub(crate) const RELAY: &str = "relay";
pub(crate) const RELAY_V2: &str = "relay-v2";
pub(crate) const RELAY_V2_SHORT: &str = "relay-v2-short";
/// The rows of [`fairness`].
pub(crate) const FAIRNESS: &str = "fairness";
/// What peers are compared with.
pub(crate) const CLIENT: &str = "client";

/// Name, whether a process is between caller and callee, and the program that it takes.
const PEERS: [(&str, bool, Option<&str>); 4] = [
    ("nats", true, Some("nats-server")),
    ("dbus", true, Some("dbus-daemon")),
    ("tonic", false, None),
    ("iceoryx2", false, None),
];

const ORDINARY: &[Work] = &[
    Work::Calls { callers: 1 },
    Work::Calls { callers: 4 },
    Work::Fairness,
    Work::Large { mib: 1 },
    Work::Large { mib: 16 },
];

/// Every row, in the order in which each round measures them.
pub(crate) fn all(against: &[PathBuf]) -> Vec<Row> {
    let calls = |name: &str, middle, ends, cases: &[Work]| Row {
        name: name.to_owned(),
        way: Way::Calls { middle, ends },
        cases: cases.to_vec(),
    };
    let [json, msgpack, v2, v2_short] = [Kind::Json, Kind::Msgpack, Kind::V2, Kind::V2Short].map(Ends::Ours);
    let gateway = || Middle::Gateway { has_lanes: false };
    let one_caller = &[Work::Calls { callers: 1 }];
    let mut rows = vec![
        calls(
            "direct",
            Middle::Nothing,
            json,
            &[Work::Calls { callers: 1 }, Work::Large { mib: 1 }, Work::Large { mib: 16 }],
        ),
        calls(RELAY, Middle::Relay, json, ORDINARY),
        calls("gateway-json", gateway(), json, ORDINARY),
        calls("gateway-msgpack", gateway(), msgpack, ORDINARY),
        calls(RELAY_V2, Middle::Relay, v2, ORDINARY),
        calls("gateway-v2", gateway(), v2, ORDINARY),
        calls(RELAY_V2_SHORT, Middle::Relay, v2_short, one_caller),
        calls("gateway-v2-short", gateway(), v2_short, one_caller),
    ];
    for (at, program) in against.iter().enumerate() {
        let knows_lanes = knows_lanes(program);
        let middle = || Middle::OtherGateway { program: program.clone(), knows_lanes };
        rows.push(calls(&format!("other-{at}-json"), middle(), json, ORDINARY));
        rows.push(calls(&format!("other-{at}-msgpack"), middle(), msgpack, ORDINARY));
        if knows_lanes {
            rows.push(calls(&format!("other-{at}-v2"), middle(), v2, ORDINARY));
        }
    }
    rows.push(calls(CLIENT, gateway(), Ends::Ours(Kind::Client), &[Work::Text]));
    for (name, kind) in [("client-lane", Kind::ClientLane), ("client-lane-spin", Kind::ClientLaneSpin)] {
        rows.push(calls(name, Middle::Gateway { has_lanes: true }, Ends::Ours(kind), &[Work::Text]));
    }
    for (name, has_server, _) in PEERS {
        let middle = if has_server { Middle::Server } else { Middle::Nothing };
        rows.push(calls(name, middle, Ends::Peer(name), &[Work::Text]));
    }
    rows.push(Row { name: FAIRNESS.to_owned(), way: Way::Function(fairness::measure), cases: Vec::new() });
    rows.push(Row { name: "lane".to_owned(), way: Way::Function(lane::measure), cases: Vec::new() });
    rows.push(Row { name: "route".to_owned(), way: Way::Function(routes::measure), cases: Vec::new() });
    rows.push(Row { name: "idle".to_owned(), way: Way::Once(idle::figures), cases: Vec::new() });
    rows
}

/// The row that another one is compared with, where both are measured.
pub(crate) fn base_of(row: &str) -> &'static str {
    let is_peer = PEERS.iter().any(|(name, ..)| *name == row);
    match row {
        _ if row.starts_with("route-v2") => routes::BASE_V2,
        _ if row.starts_with("route") => routes::BASE,
        _ if lane::ROWS.contains(&row) => lane::BASE,
        _ if fairness::ROWS.contains(&row) => fairness::BASE,
        _ if is_peer || row.starts_with(CLIENT) => CLIENT,
        _ if row.ends_with("-v2-short") => RELAY_V2_SHORT,
        _ if row.ends_with("-v2") => RELAY_V2,
        _ => RELAY,
    }
}

/// Leaves the rows with these names, and what they are compared with in the cases that they take part in.
pub(crate) fn select(rows: &mut Vec<Row>, names: &[String]) {
    let named: Vec<(&str, Work)> = rows
        .iter()
        .filter(|row| names.contains(&row.name))
        .flat_map(|row| row.cases.iter().map(|work| (base_of(&row.name), *work)))
        .collect();
    for row in rows.iter_mut().filter(|row| !names.contains(&row.name)) {
        row.cases.retain(|work| named.iter().any(|(base, named)| *base == row.name && named == work));
    }
    rows.retain(|row| names.contains(&row.name) || !row.cases.is_empty());
}

/// Whether it is a `bro` of a time when there were lanes, and so version 2.
fn knows_lanes(program: &Path) -> bool {
    let help = Command::new(program).args(["gateway", "--help"]).output();
    help.is_ok_and(|help| memchr::memmem::find(&help.stdout, b"--lanes").is_some())
}

/// Why a row cannot be measured here.
pub(crate) fn left_out(row: &Row, plan: &Plan) -> Option<String> {
    let (_, _, program) = PEERS.iter().find(|(name, ..)| *name == row.name)?;
    if plan.peers.is_none() {
        return Some("needs --peers".to_owned());
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let is_installed = |program: &str| std::env::split_paths(&folders).any(|folder| folder.join(program).is_file());
    program.filter(|program| !is_installed(program)).map(|program| format!("{program} is not installed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rows_are_compared_with_stays_where_they_are_compared() {
        let selected = |name: &str| {
            let mut rows = all(&[]);
            select(&mut rows, &[name.to_owned()]);
            rows.into_iter().map(|row| (row.name, row.cases.len())).collect::<Vec<_>>()
        };
        let row = |name: &str, cases: usize| (name.to_owned(), cases);
        assert_eq!(selected("direct"), [row("direct", 3), row("relay", 3)]);
        assert_eq!(selected("gateway-v2"), [row("relay-v2", 5), row("gateway-v2", 5)]);
        assert_eq!(selected("gateway-v2-short"), [row("relay-v2-short", 1), row("gateway-v2-short", 1)]);
        assert_eq!(selected("client-lane"), [row("client", 1), row("client-lane", 1)]);
        assert_eq!(selected("nats"), [row("client", 1), row("nats", 1)]);
        assert_eq!(selected("idle"), [row("idle", 0)]);
    }
}
