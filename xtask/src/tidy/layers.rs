//! Arrows between crates go down only: proto ← policy ← router ← gateway, proto ← session ← ipc-bro,
//! proto ← lane ← gateway and ipc-bro, the rest on top.

use toml::{Table, Value};

use super::Finding;

/// What a crate under `crates/` may depend on inside the workspace. Everything outside `crates/` (apps, bindings,
/// simulations, benches, examples) is on top: it may use any of these, and nothing may use it.
const LAYERS: &[(&str, &[&str])] = &[
    ("bro-proto", &[]),
    ("bro-policy", &["bro-proto"]),
    ("bro-router", &["bro-proto", "bro-policy"]),
    ("bro-session", &["bro-proto"]),
    ("bro-lane", &["bro-proto"]),
    ("bro-gateway", &["bro-proto", "bro-policy", "bro-router", "bro-lane"]),
    ("ipc-bro", &["bro-proto", "bro-session", "bro-lane", "bro-gateway"]),
    // Its v1 programs speak the wire with code of their own, so that they can tell when bro-proto is wrong.
    ("bro-testing", &["bro-proto", "ipc-bro"]),
];

/// Usable by the tests of every crate.
const TEST_ONLY: &str = "bro-testing";

/// Crates of logic without I/O, whose other dependencies are named one by one.
pub(crate) const LOGIC: &[&str] = &["bro-proto", "bro-policy", "bro-router", "bro-session"];

/// Dependencies that own no socket, clock, thread, file or random source.
const PURE: &[&str] = &[
    "bytes",
    "hashbrown",
    "itoa",
    "memchr",
    "rmp",
    "rmp-serde",
    "serde",
    "serde_bytes",
    "serde_json",
    "simdutf8",
    "slab",
    "thiserror",
    "toml",
];

/// One workspace member: its folder and the text of its Cargo.toml.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) folder: &'a str,
    pub(crate) manifest: &'a str,
}

/// Dependencies that point sideways or up, and logic crates that depend on I/O.
pub(crate) fn check(members: &[Member<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut parsed = Vec::new();
    for member in members {
        let path = format!("{}/Cargo.toml", member.folder);
        match member.manifest.parse::<Table>() {
            Ok(manifest) => parsed.push((path, member.folder, manifest)),
            Err(error) => findings.push(Finding::new(&path, 1, format!("no TOML: {error}"))),
        }
    }
    let folders: Vec<(String, &str)> =
        parsed.iter().map(|(_, folder, manifest)| (package_name(manifest), *folder)).collect();
    for (path, folder, manifest) in &parsed {
        let name = package_name(manifest);
        for dependency in dependencies(manifest) {
            let target = folders.iter().find(|(name, _)| *name == dependency.name);
            let problem = match target {
                Some((_, target)) => inside(&name, folder, target, &dependency),
                None => outside(&name, &dependency),
            };
            findings.extend(problem.map(|problem| Finding::new(path, 1, problem)));
        }
        if folder.starts_with("crates/") && !LAYERS.iter().any(|(layer, _)| *layer == name) {
            findings.push(Finding::new(
                path,
                1,
                format!("`{name}` has no place in LAYERS of xtask/src/tidy/layers.rs"),
            ));
        }
    }
    findings
}

/// A dependency on another member.
fn inside(name: &str, folder: &str, target_folder: &str, dependency: &Dependency) -> Option<String> {
    let target = &dependency.name;
    if !target_folder.starts_with("crates/") {
        return Some(format!("`{name}` depends on `{target}`, which is on top of everything"));
    }
    if name == "xtask" {
        return Some(format!("`xtask` depends on `{target}`: it has to build when nothing else does"));
    }
    if dependency.is_dev && target == TEST_ONLY {
        return None;
    }
    if target == TEST_ONLY && folder.starts_with("crates/") {
        return Some(format!("`{name}` depends on `{target}` outside of its tests"));
    }
    let allowed = LAYERS.iter().find(|(layer, _)| *layer == name)?.1;
    if allowed.contains(&target.as_str()) {
        return None;
    }
    Some(format!("`{name}` may not depend on `{target}`: arrows go down only, see LAYERS in xtask/src/tidy/layers.rs"))
}

/// A dependency on a crate from elsewhere.
fn outside(name: &str, dependency: &Dependency) -> Option<String> {
    let is_pure = dependency.is_dev || PURE.contains(&dependency.name.as_str());
    if !LOGIC.contains(&name) || is_pure {
        return None;
    }
    Some(format!("`{name}` is logic without I/O, and `{}` is not among the PURE dependencies", dependency.name))
}

struct Dependency {
    name: String,
    is_dev: bool,
}

fn package_name(manifest: &Table) -> String {
    let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
    name.unwrap_or_default().to_owned()
}

/// Normal, build and dev dependencies, those of one platform included.
fn dependencies(manifest: &Table) -> Vec<Dependency> {
    let mut found = Vec::new();
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    for table in platforms.filter_map(Value::as_table).chain([manifest]) {
        for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
            for (key, value) in table.get(section).and_then(Value::as_table).into_iter().flatten() {
                let name = value.get("package").and_then(Value::as_str).unwrap_or(key).to_owned();
                found.push(Dependency { name, is_dev: section == "dev-dependencies" });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(name: &str, folder: &str, dependencies: &str) -> Vec<String> {
        let manifest = format!("[package]\nname = \"{name}\"\n{dependencies}");
        let members = [
            Member { folder: "crates/bro-proto", manifest: "[package]\nname = \"bro-proto\"" },
            Member { folder: "crates/bro-gateway", manifest: "[package]\nname = \"bro-gateway\"" },
            Member { folder: "crates/bro-testing", manifest: "[package]\nname = \"bro-testing\"" },
            Member { folder: "apps/bro", manifest: "[package]\nname = \"bro\"" },
            Member { folder, manifest: &manifest },
        ];
        check(&members).into_iter().map(|finding| finding.problem).collect()
    }

    #[test]
    fn arrows_that_do_not_go_down_are_found() {
        let bad = [
            ("bro-router", "crates/bro-router", "[dependencies]\nbro-gateway.workspace = true"),
            ("bro-router", "crates/bro-router", "[dev-dependencies]\nbro-gateway.workspace = true"),
            ("bro-router", "crates/bro-router", "[dependencies]\ng = { package = \"bro-gateway\", version = \"1\" }"),
            ("ipc-bro", "crates/ipc-bro", "[dependencies]\nbro-testing.workspace = true"),
            ("ipc-bro", "crates/ipc-bro", "[build-dependencies]\nbro.workspace = true"),
            ("bench", "bench", "[dependencies]\nbro.workspace = true"),
            ("xtask", "xtask", "[dependencies]\nbro-proto.workspace = true"),
        ];
        for (name, folder, dependencies) in bad {
            assert_eq!(problems(name, folder, dependencies).len(), 1, "{name} {dependencies}");
        }
        assert_eq!(problems("ipc-bro", "crates/ipc-bro", "[dev-dependencies]\nbro-testing.workspace = true"), [""; 0]);
        assert_eq!(problems("bench", "bench", "[dependencies]\nbro-gateway.workspace = true"), [""; 0]);
    }

    #[test]
    fn io_in_logic_crates_is_found() {
        let tokio = "[dependencies]\ntokio = \"1\"";
        assert_eq!(problems("bro-session", "crates/bro-session", tokio).len(), 1);
        let on_unix = "[target.'cfg(unix)'.dependencies]\nlibc = \"0.2\"";
        assert_eq!(problems("bro-session", "crates/bro-session", on_unix).len(), 1);
        assert_eq!(problems("ipc-bro", "crates/ipc-bro", tokio).len(), 0);
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        assert_eq!(problems("bro-new", "crates/bro-new", "").len(), 1);
        assert_eq!(problems("bro-sim", "sim", "").len(), 0);
    }
}
