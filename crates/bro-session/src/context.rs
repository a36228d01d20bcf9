//! Where a request comes from, in a form that costs nothing until somebody looks at it.

use bro_proto::context::CallContext;
use bro_proto::limits::CHAIN_LEN_MAX;
use bro_proto::v1::Encoding;
use bro_proto::v1::encode::{write_context, write_json_string};
use bro_proto::v2::{RootStamp, Section, WireError, section};
use std::io::Write as _;
use std::sync::Arc;

/// The context of a request, cheap to clone. [`RequestContext::to_context`] gives it as a [`CallContext`].
///
/// It does not repeat what stands beside it: its methods are told the caller and the service that was called (the one that works
/// on the request).
#[derive(Clone, Debug)]
pub struct RequestContext {
    deadline_ms: u64,
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// The chain began with this call of version 2.
    Begun(RootStamp),
    /// A longer chain of version 2. Invariant: a whole section, checked. Behind two pointers, so that requests stay small: they are moved a few
    /// times, and most chains have no section.
    Section(Arc<Box<[u8]>>),
    /// Of version 1.
    Whole(Arc<CallContext>),
}

impl RequestContext {
    pub(crate) fn begun(root: u64, deadline_ms: u64) -> Self {
        Self { deadline_ms, form: Form::Begun(RootStamp(root)) }
    }

    pub(crate) fn of_section(section: &Section<'_>, deadline_ms: u64) -> Self {
        Self { deadline_ms, form: Form::Section(Arc::new(section.bytes.into())) }
    }

    pub(crate) fn whole(context: CallContext) -> Self {
        Self { deadline_ms: context.deadline_ms, form: Form::Whole(Arc::new(context)) }
    }

    /// When the caller stops waiting, in milliseconds since 1970.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// How many services the chain has, the first caller and this service included.
    pub fn depth(&self) -> u32 {
        match &self.form {
            Form::Begun(_) => 2,
            Form::Section(bytes) => parse(bytes).depth,
            Form::Whole(context) => context.depth,
        }
    }

    /// The context as its own value, of a request from `from` to `to`.
    pub fn to_context(&self, from: &str, to: &str) -> CallContext {
        match &self.form {
            Form::Begun(root) => CallContext {
                root: root.to_string(),
                chain: vec![from.to_owned(), to.to_owned()],
                depth: 2,
                deadline_ms: self.deadline_ms,
            },
            Form::Section(bytes) => parse(bytes).to_context(self.deadline_ms),
            Form::Whole(context) => CallContext::clone(context),
        }
    }

    /// Appends the JSON of [`RequestContext::to_context`], without making that.
    pub fn write_json(&self, from: &str, to: &str, out: &mut Vec<u8>) {
        match &self.form {
            Form::Begun(root) => {
                let chain = [from, to].into_iter();
                write_json(out, |out| root.write(&mut Ascii(out)).expect("ASCII"), chain, 2, self.deadline_ms);
            }
            Form::Section(bytes) => {
                let section = parse(bytes);
                let root = |out: &mut Vec<u8>| append_inside(out, section.root);
                write_json(out, root, section.chain(), section.depth, self.deadline_ms);
            }
            Form::Whole(context) => write_context(out, Encoding::Json, context),
        }
    }

    /// Gives the parts of [`RequestContext::to_context`] to `take`, without making that: root, chain, depth.
    pub fn with_parts<T>(
        &self,
        from: &str,
        to: &str,
        take: impl FnOnce(&str, &mut dyn Iterator<Item = &str>, u32) -> T,
    ) -> T {
        match &self.form {
            Form::Begun(root) => {
                let mut text = RootText::default();
                root.write(&mut text).expect("a root stamp is short");
                take(text.as_str(), &mut [from, to].into_iter(), 2)
            }
            Form::Section(bytes) => {
                let section = parse(bytes);
                take(section.root, &mut section.chain(), section.depth)
            }
            Form::Whole(context) => take(&context.root, &mut context.chain.iter().map(String::as_str), context.depth),
        }
    }

    /// Appends the v2 section of a call to `service` that `to` makes for this request of `from`.
    pub(crate) fn write_child(&self, from: &str, to: &str, service: &str, out: &mut Vec<u8>) -> Result<(), WireError> {
        match &self.form {
            Form::Begun(root) => section::write(out, &root.to_string(), 3, [from, to, service].into_iter()),
            Form::Section(bytes) => parse(bytes).extend(service, out),
            Form::Whole(context) => write_child(context, service, out),
        }
    }
}

/// Appends the v2 section of a call to `service` that continues `parent`.
pub(crate) fn write_child(parent: &CallContext, service: &str, out: &mut Vec<u8>) -> Result<(), WireError> {
    let len = parent.chain.len();
    if len >= CHAIN_LEN_MAX {
        return Err(WireError::BadContext);
    }
    let chain = (0..len + 1).map(|at| parent.chain.get(at).map_or(service, String::as_str));
    section::write(out, &parent.root, parent.depth.saturating_add(1), chain)
}

fn parse(bytes: &[u8]) -> Section<'_> {
    Section::parse(bytes).expect("it was checked when it came")
}

fn write_json<'a>(
    out: &mut Vec<u8>,
    root: impl FnOnce(&mut Vec<u8>),
    chain: impl Iterator<Item = &'a str>,
    depth: u32,
    deadline_ms: u64,
) {
    out.extend_from_slice(br#"{"root":""#);
    root(out);
    out.extend_from_slice(br#"","chain":["#);
    for (at, name) in chain.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_json_string(out, name);
    }
    write!(out, r#"],"depth":{depth},"deadline":{deadline_ms}}}"#).expect("writing to a vector");
}

/// A JSON string without its quotes.
fn append_inside(out: &mut Vec<u8>, text: &str) {
    let start = out.len();
    write_json_string(out, text);
    out.pop();
    out.remove(start);
}

/// A root stamp as text.
#[derive(Default)]
struct RootText {
    ascii: [u8; 32],
    len: usize,
}

impl RootText {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.ascii[..self.len]).expect("ASCII")
    }
}

impl std::fmt::Write for RootText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.ascii.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Bytes that are known to be ASCII.
struct Ascii<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Ascii<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_form() -> [RequestContext; 3] {
        let context = CallContext {
            root: "root \"1\"".into(),
            chain: vec!["we\"b".into(), "order".into(), "user".into()],
            depth: 3,
            deadline_ms: 77,
        };
        let mut bytes = Vec::new();
        section::write(&mut bytes, &context.root, 3, context.chain.iter().map(String::as_str)).unwrap();
        let section = RequestContext::of_section(&Section::parse(&bytes).unwrap(), 77);
        [RequestContext::begun(RootStamp::new(1_700, 5).0, 77), section, RequestContext::whole(context)]
    }

    #[test]
    fn all_forms_say_the_same() {
        let [begun, section, whole] = every_form();
        assert_eq!(section.to_context("order", "user"), whole.to_context("x", "y"));
        let context = begun.to_context("order", "user");
        assert_eq!((context.root.as_str(), context.depth, context.deadline_ms), ("root-1700-000005", 2, 77));
        assert_eq!(context.chain, ["order", "user"]);
        for form in every_form() {
            assert_eq!(form.deadline_ms(), 77);
            assert_eq!(form.depth(), form.to_context("order", "user").depth);
        }
    }

    #[test]
    fn json_is_that_of_the_whole_context() {
        for form in every_form() {
            let mut out = b"x".to_vec();
            form.write_json("order", "us\"er", &mut out);
            let context: CallContext = serde_json::from_slice(&out[1..]).unwrap();
            assert_eq!(context, form.to_context("order", "us\"er"));
        }
    }

    #[test]
    fn parts_are_those_of_the_whole_context() {
        for form in every_form() {
            let context = form.to_context("order", "us\"er");
            form.with_parts("order", "us\"er", |root, chain, depth| {
                assert_eq!((root, depth), (context.root.as_str(), context.depth));
                assert!(chain.eq(context.chain.iter().map(String::as_str)));
            });
        }
        let last = RequestContext::begun(u64::MAX, u64::MAX);
        last.with_parts("", "", |root, _, _| assert_eq!(root, RootStamp(u64::MAX).to_string()));
    }

    #[test]
    fn a_child_is_one_step_deeper() {
        for form in every_form() {
            let mut out = Vec::new();
            form.write_child("order", "user", "role", &mut out).unwrap();
            let child = Section::parse(&out).unwrap().to_context(77);
            assert_eq!(child, form.to_context("order", "user").extend("role"));
        }
        let full = CallContext { root: "r".into(), chain: vec!["a".into(); CHAIN_LEN_MAX], depth: 2, deadline_ms: 1 };
        assert_eq!(write_child(&full, "b", &mut Vec::new()), Err(WireError::BadContext));
    }
}
