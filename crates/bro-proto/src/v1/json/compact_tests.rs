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

/// Either refuses what the walk refuses, or reads what the walk reads.
fn assert_alike(body: &str) {
    let walked = walked(body.as_bytes());
    match compact(body.as_bytes()) {
        Some(header) => assert_eq!(walked, Ok(header), "{body}"),
        None => assert!(walked.is_err() || !is_supported() || body.len() < 64, "{body}"),
    }
}

fn call(id: &str, params: &str) -> String {
    format!(r#"{{"type":"CALL","id":"{id}","from":"o","to":"u","method":"get","params":{params}}}"#)
}

#[test]
fn numbers_and_names_at_every_place_of_a_block_are_judged_alike() {
    let scalars = "0 -0 00 01 -01 10 -10 1. .1 1.0 0.5 00.5 -0.25 1e5 1E5 1e+5 1e-05 1e 1e+ 1.e5 1.5e10 0e0 0e 1ee5 1.5.5 --1 - + +1 1-1 1e5.5 \
        12345678901234567890 1.2345678901234567890123456789012345678901234567890123456789012345678901 true false null tru truee \
        falsy fals nul nulll True t f n \\ 1\\ a 1a 0x10 1,1 NaN";
    for padding in 0..66 {
        let pad = "p".repeat(padding);
        for scalar in scalars.split(' ') {
            assert_alike(&call("i", &format!(r#"["{pad}",{scalar}]"#)));
            assert_alike(&call("i", &format!(r#"["{pad}",{scalar},[]]"#)));
            assert_alike(&call("i", &format!(r#"{{"{pad}":{scalar}}}"#)));
            assert_alike(&call("i", &format!(r#"{{"{pad}":"","k":{scalar},"{pad}{pad}":0}}"#)));
            assert_alike(&call(&pad, scalar));
        }
    }
}

#[test]
fn strings_of_every_length_with_something_anywhere_are_judged_alike() {
    for length in 0..150_usize {
        for inside in ["", "\\\"", "\\\\", "\\u00e9", "\\u00e", "\\x", "\"", "\\", "é", "\n", "\u{7f}", "\\\\\\\"\\\\"]
        {
            for at in [0, length / 2, length.saturating_sub(1), length] {
                let text = format!("{}{inside}{}", "x".repeat(at), "y".repeat(length - at));
                assert_alike(&call("i", &format!(r#"["{text}"]"#)));
                assert_alike(&call("i", &format!(r#"{{"{text}":"{text}","b":[]}}"#)));
                assert_alike(&call("i", &format!("\"{text}\"")));
                assert_alike(&call(&text, "1").replace(r#""method":"#, &format!(r#""{text}":"#)));
            }
        }
    }
}

#[test]
fn deep_nesting_is_read_as_far_as_the_shape_fits_a_word() {
    for depth in 1..140 {
        for (open, close) in [("[", "]"), (r#"{"k":"#, "}"), (r#"[[],{"k":"#, "},0]")] {
            let body = call("i", &format!("{}0{}", open.repeat(depth), close.repeat(depth)));
            let walked = walked(body.as_bytes());
            match compact(body.as_bytes()) {
                Some(header) => assert_eq!(walked, Ok(header), "{body}"),
                None => assert!(!is_supported() || depth * open.matches(['[', '{']).count() > 60, "{body}"),
            }
        }
    }
}

#[test]
fn fields_in_any_order_are_read_alike() {
    let fields = [
        r#""type":"RESPONSE""#,
        r#""id":"r-1""#,
        r#""from":"user""#,
        r#""to":"order""#,
        r#""status":"success""#,
        r#""data":{"a":[1,"b"]}"#,
        r#""context":{"root":"r","chain":["a","b"],"depth":2,"deadline":1700000030000}"#,
    ];
    let context =
        [r#""root":"r""#, r#""chain":["a"]"#, r#""depth":0"#, r#""deadline":1234567890123456"#, r#""root":null"#];
    for turned in 0..fields.len() {
        for left_out in 0..fields.len() {
            let mut some = fields.to_vec();
            some.rotate_left(turned);
            some.remove(left_out);
            let body = format!("{{{}}}", some.join(","));
            assert_alike(&body);
            for (spoiled, by) in
                [(",", ",,"), ("}", ",}"), (":", "::"), ("{", "{,"), ("[", "[,"), (",", ""), ("\"}", "}")]
            {
                let spoiled = body.replacen(spoiled, by, 1);
                assert!(compact(spoiled.as_bytes()).is_none_or(|header| walked(spoiled.as_bytes()) == Ok(header)));
            }
        }
        let mut some = context.to_vec();
        some.rotate_left(turned % context.len());
        for count in 0..=some.len() {
            let body = call("i", &format!(r#""{}","context":{{{}}}"#, "x".repeat(40), some[..count].join(",")));
            let header = compact(body.as_bytes());
            assert!(header.is_none_or(|header| walked(body.as_bytes()) == Ok(header)), "{body}");
        }
    }
    for instead in ["null", "1", "\"\"", "[]"] {
        assert_alike(&call("i", &format!(r#""{}","context":{instead}"#, "x".repeat(40))));
    }
    let twice = format!(r#"{{{},{}}}"#, fields.join(","), fields[2]);
    assert!(compact(twice.as_bytes()).is_none() && walked(twice.as_bytes()).is_err());
}

#[test]
fn values_alone_are_checked_as_the_walk_checks_them() {
    let mut accepted = 0;
    for seed in 0..20_000 {
        let mut rng = Rng::new(seed);
        let bodies = bodies(usize::try_from(rng.below(70)).unwrap());
        let mut value = bodies[usize::try_from(rng.below(bodies.len() as u64)).unwrap()].clone().into_bytes();
        for _ in 0..rng.below(3) {
            spoil(&mut value, &mut rng);
        }
        assert_eq!(check_value(&value), walk_value(&value), "seed {seed}: {}", value.escape_ascii());
        accepted += usize::from(is_compact_container(&value));
    }
    assert!(!is_supported() || accepted > 5000, "{accepted}");
}
