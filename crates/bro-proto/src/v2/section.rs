//! The context section: root, depth and chain of a call that does not begin its chain.
//!
//! ```text
//! u16 bytes of root | u16 entries of chain | u32 depth | root | for each entry: u16 bytes, name
//! ```
//!
//! The deadline is not in it: it travels in the header, as the time that is left.

use super::WireError;
use crate::CallContext;
use crate::limits::{CHAIN_LEN_MAX, CONTEXT_BYTES_MAX, ROOT_ID_BYTES_MAX, SERVICE_NAME_BYTES_MAX};

const HEAD_BYTES: usize = 8;

/// A checked section. Invariant: whole, within every limit, all texts UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// The section as it stands in the frame.
    pub bytes: &'a [u8],
    /// One id for the whole chain.
    pub root: &'a str,
    /// How many services the chain has.
    pub depth: u32,
    chain_len: u16,
    chain: &'a [u8],
}

impl<'a> Section<'a> {
    /// Reads and checks a section.
    pub fn parse(bytes: &'a [u8]) -> Result<Section<'a>, WireError> {
        let wrong = Err(WireError::BadContext);
        if bytes.len() > CONTEXT_BYTES_MAX {
            return wrong;
        }
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return wrong };
        let root_bytes = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let chain_len = u16::from_le_bytes([head[2], head[3]]);
        let depth = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let is_possible = (1..=ROOT_ID_BYTES_MAX).contains(&root_bytes)
            && (1..=CHAIN_LEN_MAX).contains(&usize::from(chain_len))
            && depth > 0
            && root_bytes <= rest.len();
        if !is_possible {
            return wrong;
        }
        let (root, chain) = rest.split_at(root_bytes);
        let Ok(root) = std::str::from_utf8(root) else { return wrong };
        let mut left = chain;
        for _ in 0..chain_len {
            match take_name(&mut left) {
                Some(name) if name.len() <= SERVICE_NAME_BYTES_MAX && std::str::from_utf8(name).is_ok() => {}
                _ => return wrong,
            }
        }
        if !left.is_empty() {
            return wrong;
        }
        Ok(Section { bytes, root, depth, chain_len, chain })
    }

    /// The services that the call went through, the first caller first.
    pub fn chain(&self) -> impl ExactSizeIterator<Item = &'a str> {
        let mut left = self.chain;
        (0..self.chain_len).map(move |_| {
            let name = take_name(&mut left).expect("checked");
            std::str::from_utf8(name).expect("checked")
        })
    }

    /// The section as a context that ends at `deadline_ms`.
    pub fn to_context(&self, deadline_ms: u64) -> CallContext {
        CallContext {
            root: self.root.to_owned(),
            chain: self.chain().map(str::to_owned).collect(),
            depth: self.depth,
            deadline_ms,
        }
    }

    /// Appends the section of a call from here to `service`: one step deeper. An error when the chain is full.
    pub fn extend(&self, service: &str, out: &mut Vec<u8>) -> Result<(), WireError> {
        if usize::from(self.chain_len) >= CHAIN_LEN_MAX || self.bytes.len() + 2 + service.len() > CONTEXT_BYTES_MAX {
            return Err(WireError::BadContext);
        }
        let start = out.len();
        out.extend_from_slice(self.bytes);
        out[start + 2..start + 4].copy_from_slice(&(self.chain_len + 1).to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&self.depth.saturating_add(1).to_le_bytes());
        put_name(out, service);
        Ok(())
    }
}

/// Appends a section. An error when the context is beyond a limit.
pub fn write<'a>(
    out: &mut Vec<u8>,
    root: &str,
    depth: u32,
    chain: impl ExactSizeIterator<Item = &'a str>,
) -> Result<(), WireError> {
    let chain_len = chain.len();
    if root.is_empty() || root.len() > ROOT_ID_BYTES_MAX || chain_len == 0 || chain_len > CHAIN_LEN_MAX || depth == 0 {
        return Err(WireError::BadContext);
    }
    let start = out.len();
    out.extend_from_slice(&u16::try_from(root.len()).expect("checked").to_le_bytes());
    out.extend_from_slice(&u16::try_from(chain_len).expect("checked").to_le_bytes());
    out.extend_from_slice(&depth.to_le_bytes());
    out.extend_from_slice(root.as_bytes());
    for name in chain {
        if name.len() > SERVICE_NAME_BYTES_MAX {
            out.truncate(start);
            return Err(WireError::BadContext);
        }
        put_name(out, name);
    }
    if out.len() - start > CONTEXT_BYTES_MAX {
        out.truncate(start);
        return Err(WireError::BadContext);
    }
    Ok(())
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    let bytes = u16::try_from(name.len()).expect("names have at most 255 bytes");
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
}

fn take_name<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (bytes, rest) = left.split_first_chunk::<2>()?;
    let (name, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*bytes)))?;
    *left = rest;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn section(chain: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, "root-1-00000a", 2, chain.iter().copied()).unwrap();
        out
    }

    #[test]
    fn a_section_reads_back_and_grows_by_one() {
        let bytes = section(&["order", "user"]);
        let read = Section::parse(&bytes).unwrap();
        assert_eq!((read.root, read.depth), ("root-1-00000a", 2));
        let mut child = Vec::new();
        read.extend("role", &mut child).unwrap();
        let child = Section::parse(&child).unwrap().to_context(77);
        assert_eq!(child.chain, ["order", "user", "role"]);
        assert_eq!((child.depth, child.deadline_ms), (3, 77));
    }

    #[test]
    fn what_is_beyond_a_limit_is_neither_written_nor_read() {
        let mut out = b"kept".to_vec();
        let long = "x".repeat(SERVICE_NAME_BYTES_MAX + 1);
        for (root, depth, chain) in [
            ("", 1, vec!["a"]),
            ("r", 0, vec!["a"]),
            ("r", 1, vec![]),
            ("r", 1, vec![long.as_str()]),
            ("r", 1, vec!["a"; CHAIN_LEN_MAX + 1]),
        ] {
            assert_eq!(write(&mut out, root, depth, chain.into_iter()), Err(WireError::BadContext));
        }
        assert_eq!(out, b"kept");
        let full = section(&["a"; CHAIN_LEN_MAX]);
        let full = Section::parse(&full).unwrap();
        assert_eq!(full.extend("b", &mut out), Err(WireError::BadContext));
    }

    #[test]
    fn damaged_sections_are_refused_or_whole() {
        let good = section(&["order", "user", "rôle"]);
        for seed in 0..5000 {
            let mut rng = Rng::new(seed);
            let mut bytes = good.clone();
            let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
            match rng.below(3) {
                0 => bytes.truncate(at),
                1 => bytes[at] = u8::try_from(rng.below(256)).unwrap(),
                _ => bytes.insert(at, u8::try_from(rng.below(256)).unwrap()),
            }
            if let Ok(read) = Section::parse(&bytes) {
                let mut again = Vec::new();
                write(&mut again, read.root, read.depth, read.chain().collect::<Vec<_>>().into_iter()).unwrap();
                assert_eq!(again, bytes, "seed {seed}");
            }
        }
    }
}
