//! Who calls, by number: JavaScript is told a name once, and the number with each request.

use bro_proto::limits::NAMES_PER_PEER_MAX;
use std::collections::HashMap;
use std::sync::Arc;

/// Stands for a caller for whose name nobody vouches.
pub(crate) const UNKNOWN: i32 = -1;

#[derive(Default)]
pub(crate) struct Callers {
    numbers: HashMap<Arc<str>, i32>,
    latest: Option<(Arc<str>, i32)>,
}

impl Callers {
    /// The number of a caller, and whether it is new: JavaScript does not know the name then, or knows another one by that number. Numbers are
    /// given anew, from 0, when there are too many.
    pub(crate) fn number(&mut self, name: &Arc<str>) -> (i32, bool) {
        if let Some((latest, number)) = &self.latest
            && *latest == *name
        {
            return (*number, false);
        }
        let known = self.numbers.get(name).copied();
        let number = known.unwrap_or_else(|| {
            if self.numbers.len() >= NAMES_PER_PEER_MAX {
                self.numbers.clear();
            }
            i32::try_from(self.numbers.len()).expect("few names")
        });
        if known.is_none() {
            self.numbers.insert(name.clone(), number);
        }
        self.latest = Some((name.clone(), number));
        (number, known.is_none())
    }
}
