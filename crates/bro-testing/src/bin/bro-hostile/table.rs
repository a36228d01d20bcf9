//! The result, for people.

use crate::scene::Row;
use crate::victim::Phase;
use std::fmt::Write;

/// One attack as a line of text.
pub(crate) fn line(row: &Row) -> String {
    let (before, during) = &row.noticed;
    let verdict = match &row.broken {
        None => "held".to_owned(),
        Some(why) => format!("BROKEN: {why}"),
    };
    let pace = row.pace.as_ref().map_or_else(String::new, |pace| {
        format!("\n    gateway's own lag p99 {} us, longest wakeup {}", pace.lag_p99_us, pace.longest)
    });
    format!(
        "{:<34} {verdict}\n    got: {}\n    honest p99 {} -> {} us ({} calls, {} failed), gateway {} KiB at most{pace}",
        row.attack.name, row.got, before.p99_us, during.p99_us, during.calls, during.failures, row.peak_kib
    )
}

/// The page that shows them all.
pub(crate) fn markdown(rows: &[Row], attack_ms: u64) -> String {
    let mut out = format!(
        "# Hostile peers\n\n\
        What a peer that means harm gets from a gateway, and what the others notice of it. This page is written by\n\n\
        ```sh\ncargo run --release -p bro-testing --bin bro-hostile -- --markdown docs/hostile-peers.md\n```\n\n\
        Each of the {} attacks goes on for {attack_ms} ms against a gateway process of its own, from the same user. Meanwhile two honest pairs, one of\n\
        our own clients and one of old programs, make a call every half millisecond; the columns show the 99th percentile of how long their calls take, in the\n\
        same run, how long what was ready waited for the gateway's thread (its own 99th percentile: the rest is the scheduler's, and that of the programs), and the\n\
        most memory that the gateway ever had. The attacker, the gateway and the honest programs share {} CPUs: a flood costs time that\n\
        others would have had, on every machine. What must hold is asserted: no honest call fails, the gateway lives and stays below its ceiling, and the\n\
        attacker's descriptors are gone with it. The test `no_attack_breaks_a_promise` runs all of them in CI.\n\n",
        rows.len(),
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    );
    out.push_str("| attack | what the attacker does | what it gets | p99 before | p99 during | lag | memory |\n");
    out.push_str("|---|---|---|---|---|---|---|\n");
    for row in rows {
        let (before, during) = &row.noticed;
        let got = row.got.replace('|', "\\|");
        let mib = f64::from(u32::try_from(row.peak_kib).unwrap_or(u32::MAX)) / 1024.0;
        let attack = row.attack;
        let (before, during) = (cell(before), cell(during));
        let lag = row.pace.as_ref().map_or_else(|| "-".to_owned(), |pace| format!("{} us", pace.lag_p99_us));
        let _ =
            writeln!(out, "| {} | {} | {got} | {before} | {during} | {lag} | {mib:.1} MiB |", attack.name, attack.what);
    }
    out
}

fn cell(phase: &Phase) -> String {
    if phase.calls == 0 { "-".to_owned() } else { format!("{} us", phase.p99_us) }
}
