//! Drafts of frames of version 2, and what peers of it get.

use super::Gateway;
use bro_proto::v2::encode::{self, CallHead};
use bro_proto::v2::{self, CancelReason, Codec, Frame, FrameKind};
use bro_proto::{ErrorBody, ErrorCode};
use bro_router::{CloseReason, PeerId};

/// A CALL on route 0, unless changed.
pub struct Draft {
    pub kind: FrameKind,
    pub id: u64,
    pub parent: u64,
    pub route: u32,
    pub timeout_ms: u32,
    pub section: Vec<u8>,
    pub codec: Codec,
    pub payload: Vec<u8>,
}

/// Its number is `id`.
pub fn draft(id: u64) -> Draft {
    Draft {
        kind: FrameKind::Call,
        id,
        parent: 0,
        route: 0,
        timeout_ms: 5000,
        section: Vec::new(),
        codec: Codec::JSON,
        payload: br#"{"a":1}"#.to_vec(),
    }
}

impl Draft {
    pub fn frame(&self) -> Vec<u8> {
        let head = CallHead {
            kind: self.kind,
            id: self.id,
            origin: self.parent,
            root: 0,
            peer: self.route,
            timeout_ms: self.timeout_ms,
            method: "get",
            section: &self.section,
            codec: self.codec,
        };
        let mut frame = Vec::new();
        encode::call_head(&mut frame, &head, self.payload.len());
        frame.extend_from_slice(&self.payload);
        frame
    }
}

/// What a callee got.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    pub id: u64,
    pub origin: u64,
    pub timeout_ms: u32,
    /// Of its section, or made as a client makes it.
    pub chain: Vec<String>,
    pub root: String,
    pub depth: u32,
    pub payload: Vec<u8>,
}

impl Gateway {
    pub fn call_v2(&mut self, peer: PeerId, draft: &Draft) {
        self.send_frame(peer, draft.frame());
    }

    pub fn answer_v2(&mut self, peer: PeerId, id: u64, payload: &[u8]) {
        let mut frame = Vec::new();
        encode::response_head(&mut frame, id, Codec::JSON, payload.len());
        frame.extend_from_slice(payload);
        self.send_frame(peer, frame);
    }

    /// The one call that a peer was asked; names that it was told in front of it are read, too.
    pub fn asked(&mut self, peer: PeerId, own: &str, names: &mut Vec<String>) -> Asked {
        let frames = self.take_frames(peer);
        let (last, before) = frames.split_last().expect("a call");
        for frame in before {
            let Ok(Frame::Name { number, service, forgets: false }) = v2::parse(frame) else { panic!("{frame:?}") };
            assert_eq!(number, names.len() as u64);
            names.push(service.to_owned());
        }
        let Ok(Frame::Call(call) | Frame::Notify(call)) = v2::parse(last) else { panic!("{last:?}") };
        let (chain, root, depth) = match call.section {
            Some(section) => (section.chain().map(str::to_owned).collect(), section.root.to_owned(), section.depth),
            None => {
                let from = names[call.peer as usize].clone();
                (vec![from, own.to_owned()], v2::RootStamp(call.root).to_string(), 2)
            }
        };
        Asked {
            id: call.id,
            origin: call.origin,
            timeout_ms: call.timeout_ms,
            chain,
            root,
            depth,
            payload: call.payload.to_vec(),
        }
    }

    /// The one ERROR that came.
    pub fn failed(&mut self, peer: PeerId) -> (u64, bool, ErrorBody) {
        let frames = self.take_frames(peer);
        assert_eq!(frames.len(), 1, "{frames:?}");
        match v2::parse(&frames[0]) {
            Ok(Frame::Error { id, is_from_gateway, failure }) => (id, is_from_gateway, failure.to_body()),
            other => panic!("an ERROR expected: {other:?}"),
        }
    }

    pub fn failed_with(&mut self, peer: PeerId) -> (u64, ErrorCode) {
        let (id, is_from_gateway, error) = self.failed(peer);
        assert!(is_from_gateway);
        (id, error.code.expect("the gateway's errors have codes"))
    }

    pub fn cancelled(&mut self, peer: PeerId) -> (u64, CancelReason) {
        let frames = self.take_frames(peer);
        assert_eq!(frames.len(), 1, "{frames:?}");
        match v2::parse(&frames[0]) {
            Ok(Frame::Cancel { id, reason }) => (id, reason),
            other => panic!("a CANCEL expected: {other:?}"),
        }
    }

    pub fn is_closed(&self, peer: PeerId) -> bool {
        self.orders.closed.contains(&(peer, CloseReason::Malformed))
    }
}

/// A context section of the root `root-given`.
pub fn section(chain: &[&str], depth: u32) -> Vec<u8> {
    let mut section = Vec::new();
    v2::section::write(&mut section, "root-given", depth, chain.iter().copied()).unwrap();
    section
}
