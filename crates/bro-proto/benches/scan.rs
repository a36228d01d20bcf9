//! The header scan beside serde_json, on frames of the sizes that calls have.
//!
//! `cargo bench -p bro-proto --bench scan`. Every row of a group reads the same CALL:
//! - `json`, `msgpack`: `bro_proto::v1::scan`, which checks the whole body on the way;
//! - `serde_json`: into a struct with borrowed strings for the header and `&RawValue` for `params`;
//! - `serde_json_ignored`: checks the JSON and keeps nothing (it does not look at UTF-8).

#![allow(missing_docs)]

use bro_proto::v1;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::hint::black_box;

/// What a router written with serde would read of a frame.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)]
struct SerdeHeader<'a> {
    r#type: &'a str,
    id: Option<&'a str>,
    from: Option<&'a str>,
    to: Option<&'a str>,
    method: Option<&'a str>,
    status: Option<&'a str>,
    service_name: Option<&'a str>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    context: Option<SerdeContext<'a>>,
    timestamp: Option<u64>,
}

#[derive(Deserialize)]
#[allow(dead_code)]
struct SerdeContext<'a> {
    root: Option<&'a str>,
    #[serde(borrow)]
    chain: Option<&'a RawValue>,
    depth: Option<u32>,
    deadline: Option<u64>,
}

fn call(params: &Value) -> Value {
    json!({
        "type": "CALL",
        "id": "req-1700000000000-a1b2c3",
        "from": "order",
        "to": "user",
        "method": "getUser",
        "params": params,
        "context": {
            "root": "root-1700000000000-x9y8z7",
            "chain": ["order", "user"],
            "depth": 2,
            "deadline": 1_700_000_030_000_u64,
        },
    })
}

/// Records like those that services exchange, until the frame has about `bytes` bytes.
fn nested(bytes: usize) -> Value {
    let mut items = Vec::new();
    let mut size = 0;
    while size < bytes {
        let item = json!({
            "sku": format!("SKU-{:06}", items.len() * 7919),
            "qty": items.len() % 17,
            "price": 12.5 + items.len() as f64,
            "tags": ["new", "fragile", "größe"],
            "stock": {"warehouse": {"row": items.len(), "bin": [1, 2, 3], "free": true}, "note": null},
        });
        size += item.to_string().len() + 1;
        items.push(item);
    }
    json!({ "items": items })
}

fn msgpack(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => rmp::encode::write_nil(out).unwrap(),
        Value::Bool(flag) => rmp::encode::write_bool(out, *flag).unwrap(),
        Value::Number(number) => match number.as_u64() {
            // msgpackr writes integers beyond 32 bits as floats.
            Some(integer) if integer <= u64::from(u32::MAX) => {
                rmp::encode::write_uint(out, integer).unwrap();
            }
            _ => rmp::encode::write_f64(out, number.as_f64().unwrap()).unwrap(),
        },
        Value::String(text) => rmp::encode::write_str(out, text).unwrap(),
        Value::Array(items) => {
            rmp::encode::write_array_len(out, items.len().try_into().unwrap()).unwrap();
            items.iter().for_each(|item| msgpack(item, out));
        }
        Value::Object(entries) => {
            // And every object with a count of two bytes.
            out.push(0xde);
            out.extend(u16::try_from(entries.len()).unwrap().to_be_bytes());
            for (key, value) in entries {
                rmp::encode::write_str(out, key).unwrap();
                msgpack(value, out);
            }
        }
    }
}

/// JSON.stringify keeps the order that the fields are written in; serde_json's map would sort them.
fn json_text(params: &Value) -> String {
    format!(
        concat!(
            r#"{{"type":"CALL","id":"req-1700000000000-a1b2c3","from":"order","to":"user","method":"getUser","#,
            r#""params":{},"context":{{"root":"root-1700000000000-x9y8z7","chain":["order","user"],"depth":2,"#,
            r#""deadline":1700000030000}}}}"#
        ),
        params
    )
}

fn scan(criterion: &mut Criterion) {
    let small = json!({"userId": "u-10042", "fields": ["name", "email"]});
    let medium = json!({
        "userId": "u-10042", "fields": ["name", "email", "roles", "lastLogin"], "limit": 50, "includeDeleted": false,
        "note": "the quick brown fox jumps over the lazy dog and then some more text follows it", "locale": "en-GB",
    });
    let blob = json!({"name": "scan.bin", "content": "VGhlIHF1aWNrIGJyb3duIGZveA".repeat((1 << 20) / 26)});
    let frames = [
        ("250B", small),
        ("450B", medium),
        ("4KiB_nested", nested(4096 - 200)),
        ("1MiB_nested", nested((1 << 20) - 200)),
        ("1MiB_text", blob),
    ];
    for (name, params) in frames {
        let text = json_text(&params);
        let mut packed = Vec::new();
        msgpack(&call(&params), &mut packed);
        let mut group = criterion.benchmark_group(format!("{name}/{}", text.len()));
        group.throughput(Throughput::Bytes(text.len() as u64));
        assert!(v1::scan(text.as_bytes()).is_ok() && v1::scan(&packed).is_ok());
        assert!(serde_json::from_str::<SerdeHeader<'_>>(&text).is_ok());
        // What was read is looked at where it lies, as a router does: moving it is no part of reading.
        group.bench_function("json", |bencher| {
            bencher.iter(|| {
                black_box(&v1::scan(black_box(text.as_bytes())));
            });
        });
        group.bench_function("msgpack", |bencher| {
            bencher.iter(|| {
                black_box(&v1::scan(black_box(&packed)));
            });
        });
        group.bench_function("serde_json", |bencher| {
            bencher.iter(|| {
                black_box(&serde_json::from_slice::<SerdeHeader<'_>>(black_box(text.as_bytes())));
            });
        });
        group.bench_function("serde_json_ignored", |bencher| {
            bencher.iter(|| {
                black_box(&serde_json::from_slice::<IgnoredAny>(black_box(text.as_bytes())));
            });
        });
        group.finish();
    }
}

criterion_group!(benches, scan);
criterion_main!(benches);
