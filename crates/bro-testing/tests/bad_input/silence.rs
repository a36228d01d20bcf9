//! Frames that do not come, or only in part.

use crate::scene::{Scene, call_around};
use bro_testing::codec::{self, frame};
use bro_testing::gateway::wait_until;
use bro_testing::{Encoding, GatewayOptions, V1Peer, for_each_encoding};
use serde_json::json;

#[test]
fn half_frames_before_register_are_dropped_after_a_bounded_wait() {
    for_each_encoding(|encoding| {
        let options = GatewayOptions { register_timeout_ms: Some(200), ..GatewayOptions::default() };
        let mut scene = Scene::with(options);
        let register = json!({ "type": "REGISTER", "serviceName": "half", "methods": [], "metadata": {} });
        let whole = frame(&codec::encode(encoding, &register));
        for sent in [&whole[..1], &whole[..3], &whole[..4], &whole[..5], &whole[..whole.len() - 1]] {
            let mut peer = scene.connect(encoding);
            let _ = peer.try_send_bytes(sent); // on a slow machine its time is over before
            scene.check_others();
            peer.expect_error_and_close("TIMEOUT");
        }
        scene.finish();
    });
}

#[test]
fn half_frames_after_register_are_no_sign_of_life() {
    for_each_encoding(|encoding| {
        let options = GatewayOptions { heartbeat_interval_ms: Some(300), ..GatewayOptions::default() };
        let gateway = options.start();
        let mut mallory = V1Peer::register(gateway.socket_path(), encoding, "mallory", &[]);
        let mut bystander = V1Peer::register(gateway.socket_path(), encoding, "bystander", &[]);
        let whole = frame(&codec::encode(encoding, &json!({ "type": "HEARTBEAT", "from": "mallory", "timestamp": 1 })));
        mallory.send_bytes(&whole[..whole.len() / 2]);
        wait_until("the silent service is dropped", || {
            bystander.heartbeat();
            bystander.call("bro.gateway", "service", json!({ "name": "mallory" }))["status"] == "error"
        });
        mallory.expect_error_and_close("TIMEOUT");
        bystander.expect_nothing_before_now();
    });
}

#[test]
fn a_peer_that_dies_in_mid_frame_leaves_nothing_behind() {
    for_each_encoding(|encoding| {
        let mut scene = Scene::new();
        let mut descriptors = None;
        for length in [1, 4, 5, 40, 1_000_000] {
            let mut peer = scene.register(encoding);
            let params = codec::encode(encoding, &json!("x".repeat(2_000_000)));
            peer.send_bytes(&frame(&call_around(encoding, &params))[..length]);
            drop(peer);
            let bystander = &mut scene.bystander;
            wait_until("the dead connection is forgotten", || {
                bystander.call("bro.gateway", "status", json!({}))["data"]["peers"].as_f64() == Some(2.0)
            });
            // The first round counts what is open anyway.
            let gateway = &scene.gateway;
            let expected = *descriptors.get_or_insert_with(|| gateway.fd_count());
            wait_until("its descriptor is closed", || gateway.fd_count() <= expected);
        }
        scene.check_others();
        scene.finish();
    });
}

#[test]
fn silence_before_register_is_dropped_after_a_bounded_wait() {
    let options = GatewayOptions { register_timeout_ms: Some(200), ..GatewayOptions::default() };
    let mut scene = Scene::with(options);
    let mut silent: Vec<_> = (0..10).map(|_| scene.connect(Encoding::Json)).collect();
    // Frames other than REGISTER do not extend the wait.
    for peer in &mut silent[5..] {
        // On a slow machine their time is over before.
        let _ = peer.try_send(&json!({ "type": "HEARTBEAT", "from": "echo", "timestamp": 1 }));
    }
    scene.check_others();
    for peer in &mut silent {
        let error = peer.expect_error_and_close("TIMEOUT");
        assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("REGISTER")), "{error}");
    }
    scene.finish();
}
