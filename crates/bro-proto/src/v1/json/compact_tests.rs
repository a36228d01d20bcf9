//! What is proven and read many bytes at once is exactly what the walk reads.

use super::*;
use crate::rng::Rng;

/// What the walk alone says.
fn walked(body: &[u8]) -> Result<Header<'_>, ScanError> {
    let mut header = Header::empty(Encoding::Json);
    walk(body, &mut header).map(|()| header)
}

/// The header, if the walk is not needed.
fn compact(body: &[u8]) -> Option<Header<'_>> {
    let mut header = Header::empty(Encoding::Json);
    fill_compact(body, &mut header).map(|()| header)
}

fn is_supported() -> bool {
    compact(format!(r#"{{"type":"CALL","id":"{}"}}"#, "x".repeat(64)).as_bytes()).is_some()
}

/// Bodies with tokens of every kind, which padding moves over the borders of blocks.
fn bodies(padding: usize) -> Vec<String> {
    let pad = "p".repeat(padding);
    let context = r#""context":{"root":"root-1","chain":["order","user"],"depth":2,"deadline":1700000030000}"#;
    let params = [
        r#"{"a":[1,{}],"b":{"c":[[],[0,10,-0,-12]],"d":""},"e":[true,false,null,"x"]}"#,
        r#"[19.95,0.5,1e5,-2.25E-10,1E+2,123456789012345678901234567890,{"k":0}]"#,
        r#"["\"","\\","\\\"a\\","\u00fc\ud800",{"\"k\"":"\n"},"a\\\\"]"#,
        r#"{"größe":"ü","日本":["語",{"x":"é"}]}"#,
        r#""one \"string\" of some length, with , : { } [ ] in it""#,
        "-12.5e3",
        "null",
    ];
    let mut bodies: Vec<String> = params
        .iter()
        .map(|params| {
            format!(r#"{{"type":"CALL","id":"{pad}","from":"o","to":"u","method":"get","params":{params},{context}}}"#)
        })
        .collect();
    bodies.push(format!(
        r#"{{"type":"RESPONSE","id":"{pad}","from":"u","to":"o","status":"success","data":{{"a":[{{}}]}},"other":[1],{context}}}"#
    ));
    bodies.push(format!(
        r#"{{"type":"REGISTER","serviceName":"{pad}","methods":["a","b"],"metadata":{{"k":[1]}},"version":"1.0.0","x":-1}}"#
    ));
    bodies
        .push(format!(r#"{{"type":"HEARTBEAT","from":"{pad}","timestamp":1700000000000,"unknown key of its own":0}}"#));
    bodies
}

#[test]
fn well_formed_bodies_are_read_alike() {
    let mut read = 0;
    for padding in 0..140 {
        for body in bodies(padding) {
            let expected = walked(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
            if let Some(header) = compact(body.as_bytes()) {
                assert_eq!(header, expected, "{body}");
                read += 1;
            } else {
                assert!(!is_supported() || body.len() < 64, "{body}");
            }
        }
    }
    assert!(!is_supported() || read > 1000, "{read}");
}

/// Replaced, removed, added and doubled bytes, among them all that mean something.
fn spoil(body: &mut Vec<u8>, rng: &mut Rng) {
    let bytes = b"\"\\[]{},:019-+.eEtfn ux\n\x00\x1f\x7f\x80\xc3\xbc\xff";
    let below = |rng: &mut Rng, limit: usize| usize::try_from(rng.below(limit as u64)).unwrap();
    let at = below(rng, body.len());
    let byte = bytes[below(rng, bytes.len())];
    match rng.below(5) {
        0 | 1 => body[at] = byte,
        2 => drop(body.remove(at)),
        3 => body.insert(at, byte),
        _ => {
            let end = (at + 1 + below(rng, 20)).min(body.len());
            let again = body[at..end].to_vec();
            body.splice(end..end, again);
        }
    }
}

#[test]
fn nothing_is_accepted_that_the_walk_refuses() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..60_000 {
        let mut rng = Rng::new(seed);
        let bodies = bodies(usize::try_from(rng.below(130)).unwrap());
        let mut body = bodies[usize::try_from(rng.below(bodies.len() as u64)).unwrap()].clone().into_bytes();
        for _ in 0..=rng.below(3) {
            spoil(&mut body, &mut rng);
        }
        match compact(&body) {
            Some(header) => {
                assert_eq!(walked(&body), Ok(header), "seed {seed}: {}", body.escape_ascii());
                accepted += 1;
            }
            None => refused += 1,
        }
    }
    assert!(!is_supported() || accepted > 5000, "{accepted}");
    assert!(refused > 5000, "{refused}");
}

#[test]
fn short_sequences_of_tokens_are_judged_alike() {
    let tokens = ["{", "}", "[", "]", ",", ":", "\"k\"", "\"\"", "0", "-1.5", "true"];
    let start = format!(r#"{{"type":"CALL","id":"{}","params":"#, "x".repeat(36));
    let mut accepted = 0;
    for length in 1..=6_u32 {
        for number in 0..tokens.len().pow(length) {
            let mut body = start.clone();
            let mut rest = number;
            for _ in 0..length {
                body.push_str(tokens[rest % tokens.len()]);
                rest /= tokens.len();
            }
            body.push('}');
            if let Some(header) = compact(body.as_bytes()) {
                assert_eq!(walked(body.as_bytes()), Ok(header), "{body}");
                accepted += 1;
            } else if is_supported() {
                assert!(walked(body.as_bytes()).is_err(), "{body}");
            }
        }
    }
    assert!(!is_supported() || accepted > 100, "{accepted}");
}
