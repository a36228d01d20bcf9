//! Shapes: lists of keys that objects have again and again. Each has a number, under which JavaScript has compiled code that makes such
//! objects, and this side the text between their values.
//!
//! Numbers are given once and stay. What is not worth one, or finds no room, is left to V8's JSON.

use crate::quote::append_quoted_text;
use std::collections::HashMap;
use std::ops::Range;

/// Numbers that are given; what comes later is not shaped.
const SHAPES_MAX: usize = 1024;
/// Keys of one shape.
pub(crate) const KEYS_MAX: usize = 64;
/// Bytes of one key.
const KEY_BYTES_MAX: usize = 256;
/// Bytes of all keys of one shape with their quotes and colons.
const KEYS_BYTES_MAX: usize = 2048;
/// How often an object must come before its keys get a number: compiling must pay.
const SIGHTINGS: i32 = 16;
/// Keys that are remembered, in the places in which they stood. With more, all are forgotten: then keys are values, as in dictionaries.
const PLACES_MAX: usize = 4096;
/// Different keys that may follow on the same beginning.
const FOLLOWERS_MAX: usize = 64;

/// A list of keys.
pub(crate) struct Shape {
    /// `"key":` of every key, one behind the other.
    text: Box<[u8]>,
    ends: Box<[usize]>,
    is_defined: bool,
}

/// The shapes of one environment, and the way to them key by key.
pub(crate) struct Shapes {
    list: Vec<Shape>,
    by_text: HashMap<Box<[u8]>, i32>,
    places: Vec<Place>,
    undefined: Vec<i32>,
    /// The shape of contexts, once one was needed; `None` inside when there was no room.
    context: Option<Option<i32>>,
    /// JavaScript can compile code for them.
    pub(crate) are_used: bool,
}

/// Where the beginning of an object has led: each key leads one place on. The first place depends on where the object stands, so that
/// what comes next is nearly always what came last time.
pub(crate) type At = usize;
/// The first place of objects that stand in no other.
pub(crate) const START: At = 0;
/// The first place of contexts, which come in turn with other objects.
pub(crate) const CONTEXT_START: At = 1;

struct Place {
    /// `"key":` of the last key; empty at a first place.
    fragment: Box<[u8]>,
    before: At,
    followers: Vec<At>,
    /// The follower that came last, usually the one that comes next; `START` when there is none.
    latest: At,
    /// The first place of objects that are values of this key; `START` when there were none.
    inner: At,
    shape: Found,
}

/// What is known of the objects that end at a place.
#[derive(Clone, Copy)]
pub(crate) enum Found {
    Shape(i32),
    /// Not seen often enough so far.
    Seen(i32),
    /// Not worth a number.
    Refused,
}

impl Default for Shapes {
    fn default() -> Self {
        Shapes {
            list: Vec::new(),
            by_text: HashMap::new(),
            places: first_places(),
            undefined: Vec::new(),
            context: None,
            are_used: false,
        }
    }
}

impl Shapes {
    /// The text between the values of a shape.
    pub(crate) fn shape(&self, number: i32) -> Option<&Shape> {
        self.list.get(usize::try_from(number).ok()?)
    }

    /// The number of a list of keys, a new one if need be. `None` where there is no room.
    pub(crate) fn number(&mut self, keys: &[String]) -> Option<i32> {
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        for key in keys {
            append_quoted_text(key, &mut text);
            text.push(b':');
            ends.push(text.len());
        }
        self.insert(text, ends)
    }

    /// The shape of contexts: root, chain, depth, deadline.
    pub(crate) fn context(&mut self) -> Option<i32> {
        if self.context.is_none() {
            let keys = ["root", "chain", "depth", "deadline"].map(str::to_owned);
            let number = self.number(&keys);
            if let Some(number) = number {
                self.define_number(number);
            }
            self.context = Some(number);
        }
        self.context.flatten()
    }

    /// Goes on by the key that stands at the beginning of `json`, and says how many bytes it takes with its colon. Only a key that
    /// came last time as well is found here: that takes one comparison.
    #[inline]
    pub(crate) fn follow(&self, at: At, json: &[u8]) -> Option<(At, usize)> {
        let latest = self.places[at].latest;
        let fragment = &*self.places[latest].fragment;
        (latest != START && json.starts_with(fragment)).then_some((latest, fragment.len()))
    }

    /// Goes on by a key without escapes. `None` for keys that no shape has.
    pub(crate) fn step(&mut self, at: At, key: &str) -> Option<At> {
        let is_key = |place: &At| {
            let fragment = &*self.places[*place].fragment;
            fragment.len() == key.len() + 3 && &fragment[1..=key.len()] == key.as_bytes()
        };
        let next = match self.places[at].followers.iter().copied().find(is_key) {
            Some(next) => next,
            None => self.add_place(at, key)?,
        };
        self.places[at].latest = next;
        Some(next)
    }

    /// The first place of objects that are the value of the last key, or elements of it.
    #[inline]
    pub(crate) fn inner(&mut self, at: At) -> Option<At> {
        let inner = self.places[at].inner;
        if inner != START { Some(inner) } else { self.add_inner(at) }
    }

    /// What an object is that ends here.
    #[inline]
    pub(crate) fn end(&mut self, at: At) -> Found {
        match self.places[at].shape {
            Found::Seen(_) => self.count(at),
            known => known,
        }
    }

    /// Forgets keys when there are too many. Places are not valid any more.
    pub(crate) fn tidy(&mut self) {
        if self.places.len() >= PLACES_MAX {
            self.places = first_places();
        }
    }

    /// What JavaScript must compile before it sees the next batch: numbers with their keys, as JSON.
    pub(crate) fn take_definitions(&mut self) -> Option<Vec<u8>> {
        if self.undefined.is_empty() {
            return None;
        }
        let mut json = Vec::new();
        for number in self.undefined.drain(..) {
            json.push(if json.is_empty() { b'[' } else { b',' });
            json.extend_from_slice(format!("[{number}").as_bytes());
            let shape = &self.list[usize::try_from(number).expect("numbers are indices")];
            for at in 0..shape.len() {
                let fragment = shape.fragment(at);
                json.push(b',');
                json.extend_from_slice(&fragment[..fragment.len() - 1]);
            }
            json.push(b']');
        }
        json.push(b']');
        Some(json)
    }

    fn add_place(&mut self, at: At, key: &str) -> Option<At> {
        // Keys that begin like numbers are those of dictionaries, and `__proto__` in source text would mean something else.
        let is_name = !key.starts_with(|first: char| first.is_ascii_digit() || first == '-') && key != "__proto__";
        let is_full = self.places.len() >= PLACES_MAX || self.places[at].followers.len() >= FOLLOWERS_MAX;
        if !is_name || is_full || key.len() > KEY_BYTES_MAX {
            return None;
        }
        let mut fragment = Vec::with_capacity(key.len() + 3);
        append_quoted_text(key, &mut fragment);
        fragment.push(b':');
        self.places.push(Place::new(fragment.into_boxed_slice(), at));
        let next = self.places.len() - 1;
        self.places[at].followers.push(next);
        Some(next)
    }

    #[cold]
    fn add_inner(&mut self, at: At) -> Option<At> {
        if self.places.len() >= PLACES_MAX {
            return None;
        }
        self.places.push(Place::new(Box::default(), START));
        let inner = self.places.len() - 1;
        self.places[at].inner = inner;
        Some(inner)
    }

    #[cold]
    fn count(&mut self, at: At) -> Found {
        let Found::Seen(times) = self.places[at].shape else { return self.places[at].shape };
        let found = if times + 1 < SIGHTINGS { Found::Seen(times + 1) } else { self.define(at) };
        self.places[at].shape = found;
        found
    }

    fn define(&mut self, mut at: At) -> Found {
        let mut way = Vec::new();
        while !self.places[at].fragment.is_empty() {
            way.push(at);
            at = self.places[at].before;
        }
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        for at in way.into_iter().rev() {
            text.extend_from_slice(&self.places[at].fragment);
            ends.push(text.len());
        }
        // The same key twice: the last value counts, as V8 has it.
        let mut keys: Vec<&[u8]> = ranges(&ends).map(|range| &text[range]).collect();
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Found::Refused;
        }
        let Some(number) = self.insert(text, ends) else { return Found::Refused };
        self.define_number(number);
        Found::Shape(number)
    }

    /// JavaScript has to compile a shape, unless it has.
    fn define_number(&mut self, number: i32) {
        let shape = &mut self.list[usize::try_from(number).expect("numbers are indices")];
        if !std::mem::replace(&mut shape.is_defined, true) {
            self.undefined.push(number);
        }
    }

    fn insert(&mut self, text: Vec<u8>, ends: Vec<usize>) -> Option<i32> {
        if let Some(number) = self.by_text.get(text.as_slice()) {
            return Some(*number);
        }
        if self.list.len() >= SHAPES_MAX || ends.len() > KEYS_MAX || text.len() > KEYS_BYTES_MAX {
            return None;
        }
        let number = i32::try_from(self.list.len()).ok()?;
        let text = text.into_boxed_slice();
        self.by_text.insert(text.clone(), number);
        self.list.push(Shape { text, ends: ends.into_boxed_slice(), is_defined: false });
        Some(number)
    }
}

impl Shape {
    /// The number of keys.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// `"key":`
    pub(crate) fn fragment(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[start..self.ends[at]]
    }

    /// Whether the JSON form of binary values has these keys.
    pub(crate) fn may_be_binary(&self) -> bool {
        matches!(&*self.text, br#""type":"data":"# | br#""data":"type":"#)
    }
}

impl Place {
    fn new(fragment: Box<[u8]>, before: At) -> Self {
        Place { fragment, before, followers: Vec::new(), latest: START, inner: START, shape: Found::Seen(0) }
    }
}

/// `START` and `CONTEXT_START`.
fn first_places() -> Vec<Place> {
    [START, CONTEXT_START].map(|_| Place::new(Box::default(), START)).into()
}

fn ranges(ends: &[usize]) -> impl Iterator<Item = Range<usize>> + '_ {
    ends.iter().scan(0, |start, end| Some(std::mem::replace(start, *end)..*end))
}
