//! The inputs that mutation starts from.

use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where this crate lies.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The seeds of a target: its own, in the order of their names and so often that they are half of all, and the bytes of every
/// conformance vector. Never empty.
pub fn load(target: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut seeds = vec![Vec::new()];
    let own = own(target)?;
    for path in files(&folder().join("../conformance/vectors"))? {
        let vectors: Value = serde_json::from_slice(&fs::read(path)?)?;
        collect_hex(&vectors, &mut seeds);
    }
    let repeated = own.iter().cycle().take(own.len().max(seeds.len())).cloned();
    Ok(repeated.chain(seeds.iter().cloned()).collect())
}

/// The seeds in the folder of a target.
pub fn own(target: &str) -> io::Result<Vec<Vec<u8>>> {
    files(&folder().join("corpus").join(target))?.into_iter().map(fs::read).collect()
}

/// The files of a folder in the order of their names; none when there is no such folder.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Every string of hexadecimal digits under the key `hex`.
fn collect_hex(value: &Value, seeds: &mut Vec<Vec<u8>>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect_hex(item, seeds)),
        Value::Object(entries) => {
            seeds.extend(entries.get("hex").and_then(Value::as_str).and_then(unhex));
            entries.values().for_each(|value| collect_hex(value, seeds));
        }
        _ => {}
    }
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = digits.chars().map(|digit| digit.to_digit(16)).collect();
    digits?.chunks(2).map(|pair| Some(u8::try_from(pair[0] * 16 + pair.get(1)?).expect("two digits"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_are_found() {
        let seeds = load("json_scan").unwrap();
        assert!(seeds.iter().filter(|seed| seed.starts_with(b"{\"type\"")).count() > 20);
        assert!(seeds.iter().filter(|seed| seed.first().is_some_and(|byte| *byte & 0xf0 == 0x80)).count() > 5);
    }

    #[test]
    fn hex_is_bytes_or_nothing() {
        assert_eq!(unhex("00ff7F"), Some(vec![0, 255, 127]));
        assert_eq!((unhex("0"), unhex("0g")), (None, None));
    }
}
