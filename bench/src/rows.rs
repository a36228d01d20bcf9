//! What is compared. A row is one way to bring a call to another process and its answer back.

use crate::figures::Measurement;
use crate::idle;
use crate::routes;
use crate::v1::Shape;
use anyhow::Result;
use bro_proto::v1::Encoding;
use std::path::PathBuf;
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
    /// Of this checkout.
    Gateway,
    /// `PROGRAM gateway`, of another build.
    OtherGateway(PathBuf),
    /// A server of the system that the ends speak.
    Server,
}

/// What caller and callee are made of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ends {
    /// Load generators that speak version 1.
    V1(Encoding),
    /// The crate `ipc-bro`.
    Client,
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

/// What ratios are taken to, in the cases that it takes part in.
pub(crate) const BASE: &str = "relay";
/// The same for [`Work::Text`].
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
    let json = Ends::V1(Encoding::Json);
    let mut rows = vec![
        calls(
            "direct",
            Middle::Nothing,
            json,
            &[Work::Calls { callers: 1 }, Work::Large { mib: 1 }, Work::Large { mib: 16 }],
        ),
        calls(BASE, Middle::Relay, json, ORDINARY),
        calls("gateway-json", Middle::Gateway, json, ORDINARY),
        calls("gateway-msgpack", Middle::Gateway, Ends::V1(Encoding::Msgpack), ORDINARY),
    ];
    for (at, program) in against.iter().enumerate() {
        let middle = || Middle::OtherGateway(program.clone());
        rows.push(calls(&format!("other-{at}-json"), middle(), json, ORDINARY));
        rows.push(calls(&format!("other-{at}-msgpack"), middle(), Ends::V1(Encoding::Msgpack), ORDINARY));
    }
    rows.push(calls(CLIENT, Middle::Gateway, Ends::Client, &[Work::Text]));
    for (name, has_server, _) in PEERS {
        let middle = if has_server { Middle::Server } else { Middle::Nothing };
        rows.push(calls(name, middle, Ends::Peer(name), &[Work::Text]));
    }
    rows.push(Row { name: "route".to_owned(), way: Way::Function(routes::measure), cases: Vec::new() });
    rows.push(Row { name: "idle".to_owned(), way: Way::Once(idle::figures), cases: Vec::new() });
    rows
}

/// Leaves the rows with these names, and what they are compared with in the cases that they take part in.
pub(crate) fn select(rows: &mut Vec<Row>, names: &[String]) {
    let is_named = |row: &Row| names.contains(&row.name);
    let works: Vec<Work> = rows.iter().filter(|row| is_named(row)).flat_map(|row| row.cases.clone()).collect();
    for row in rows.iter_mut().filter(|row| !is_named(row)) {
        row.cases.retain(|work| [BASE, CLIENT].contains(&&*row.name) && works.contains(work));
    }
    rows.retain(|row| names.contains(&row.name) || !row.cases.is_empty());
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
        assert_eq!(selected("nats"), [row("client", 1), row("nats", 1)]);
        assert_eq!(selected("idle"), [row("idle", 0)]);
    }
}
