//! A call and the calls nested in it, as the gateway saw them.

use crate::exit::Failure;
use crate::output::duration_us;
use serde_json::Value;
use std::collections::HashMap;

/// One routed call.
#[derive(Clone, Debug)]
struct Routed {
    service: String,
    method: String,
    chain: Vec<String>,
    depth: u64,
    elapsed_us: Option<u64>,
}

/// The calls that share one root, in the order in which they were routed.
#[derive(Default)]
pub struct CallTree {
    calls: Vec<Routed>,
    by_request: HashMap<String, usize>,
}

impl CallTree {
    /// Takes what belongs to `root` out of the gateway's events.
    pub fn from_events(events: &[Value], root: &str) -> CallTree {
        let mut tree = CallTree::default();
        for event in events {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("call-routed") if event["context"]["root"] == root => {
                    tree.by_request.insert(text("requestId"), tree.calls.len());
                    let chain = event["context"]["chain"].as_array().into_iter().flatten();
                    tree.calls.push(Routed {
                        service: text("to"),
                        method: text("method"),
                        chain: chain.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
                        depth: event["context"]["depth"].as_u64().unwrap_or(0),
                        elapsed_us: None,
                    });
                }
                Some("response-routed") => {
                    if let Some(&at) = tree.by_request.get(event["requestId"].as_str().unwrap_or_default()) {
                        tree.calls[at].elapsed_us = event["elapsedUs"].as_u64();
                    }
                }
                _ => {}
            }
        }
        tree
    }

    /// Whether every call in it has been answered.
    pub fn is_complete(&self) -> bool {
        !self.calls.is_empty() && self.calls.iter().all(|call| call.elapsed_us.is_some())
    }

    /// The chains, for checking.
    pub fn chains(&self) -> Vec<&[String]> {
        self.calls.iter().map(|call| call.chain.as_slice()).collect()
    }

    /// Drawn with one line a call.
    pub fn draw(&self) -> Result<Vec<String>, Failure> {
        let mut rows = Vec::new();
        for (at, call) in self.calls.iter().enumerate() {
            let mut branch = String::new();
            for len in 3..call.chain.len() {
                let goes_on = self.ancestor(at, len).is_some_and(|above| !self.is_last(above));
                branch.push_str(if goes_on { "│  " } else { "   " });
            }
            if call.chain.len() > 2 {
                branch.push_str(if self.is_last(at) { "└─ " } else { "├─ " });
            }
            let elapsed_us = call.elapsed_us.ok_or_else(|| Failure::local("a call of the tree has no answer"))?;
            rows.push(vec![
                format!("{branch}{}.{}", call.service, call.method),
                format!("depth {}", call.depth),
                duration_us(elapsed_us),
                call.chain.join(" > "),
            ]);
        }
        Ok(crate::output::table(&rows).lines().map(str::to_owned).collect())
    }

    /// Whether no later call has the same parent.
    fn is_last(&self, at: usize) -> bool {
        let chain = &self.calls[at].chain;
        let parent = &chain[..chain.len().saturating_sub(1)];
        !self.calls[at + 1..]
            .iter()
            .take_while(|later| later.chain.len() >= chain.len())
            .any(|later| later.chain.len() == chain.len() && later.chain.starts_with(parent))
    }

    /// The latest call before `at` whose chain is the first `len` entries of its chain.
    fn ancestor(&self, at: usize, len: usize) -> Option<usize> {
        self.calls[..at].iter().rposition(|call| call.chain == self.calls[at].chain[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn routed(id: &str, to: &str, chain: &[&str]) -> Value {
        let context = json!({ "root": "r", "chain": chain, "depth": chain.len() });
        json!({ "event": "call-routed", "requestId": id, "to": to, "method": "m", "context": context })
    }

    fn answered(id: &str) -> Value {
        json!({ "event": "response-routed", "requestId": id, "elapsedUs": 1500 })
    }

    #[test]
    fn nested_calls_are_drawn_below_their_caller() {
        let mut events = vec![
            routed("1", "order", &["demo", "order"]),
            routed("2", "user", &["demo", "order", "user"]),
            routed("3", "role", &["demo", "order", "user", "role"]),
            routed("4", "inventory", &["demo", "order", "inventory"]),
        ];
        assert!(!CallTree::from_events(&events, "r").is_complete());
        events.extend(["1", "2", "3", "4"].map(answered));
        let tree = CallTree::from_events(&events, "r");
        assert!(tree.is_complete());
        let lines = tree.draw().unwrap();
        let starts: Vec<&str> = lines.iter().map(|line| line.split(".m").next().unwrap()).collect();
        assert_eq!(starts, ["order", "├─ user", "│  └─ role", "└─ inventory"]);
        assert!(lines[2].contains("depth 4") && lines[2].contains("demo > order > user > role"));
        assert!(CallTree::from_events(&events, "other").chains().is_empty());
    }
}
