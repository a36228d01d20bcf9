//! A gateway of a test's own, and the end of tests that hang.

use ipc_bro::{Client, ClientBuilder, EventMask, Gateway, GatewayConfig, LanePolicy, Serializer};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Every pair of encodings that a caller and a callee may use.
pub const ENCODING_PAIRS: [(Serializer, Serializer); 4] = [
    (Serializer::Json, Serializer::Json),
    (Serializer::Json, Serializer::Msgpack),
    (Serializer::Msgpack, Serializer::Json),
    (Serializer::Msgpack, Serializer::Msgpack),
];

/// Only ends what would hang for ever; says nothing about speed.
const WATCHDOG: Duration = Duration::from_secs(300);

/// The timeout of calls of which there is so much that a slow machine needs its time. Shorter than the watchdog, so that a call that hangs is told.
pub const PATIENT: Duration = Duration::from_secs(240);

/// A directory for one test, and the gateway in it if it runs.
pub struct Place {
    directory: PathBuf,
    socket: PathBuf,
    gateway: Option<Gateway>,
}

impl Place {
    /// Without a gateway so far.
    pub fn empty() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ipc-bro-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Self { socket: directory.join("gateway.sock"), directory, gateway: None }
    }

    /// With a running gateway.
    pub fn new() -> Self {
        let mut place = Self::empty();
        place.start();
        place
    }

    pub fn start(&mut self) {
        self.start_with(LanePolicy::Off);
    }

    pub fn start_with(&mut self, lanes: LanePolicy) {
        let mut config = GatewayConfig::new(&self.socket);
        config.router.lanes = lanes;
        // Somebody may want to listen later.
        let sink = Box::new(|_| {});
        self.gateway = Some(Gateway::start_with_events(config, EventMask::NONE, sink).unwrap());
    }

    pub fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    pub fn stop(&mut self) {
        self.gateway.take().unwrap().stop().unwrap();
    }

    /// Without waiting for calls in flight.
    pub fn stop_now(&mut self) {
        self.gateway.take().unwrap().stop_now().unwrap();
    }

    /// What the gateway knows of a service.
    pub fn methods_of(&self, service: &str) -> Option<Vec<String>> {
        let service = self.gateway.as_ref().unwrap().service(service).unwrap()?;
        Some(service.methods.iter().map(|method| method.to_string()).collect())
    }

    pub fn instances_of(&self, service: &str) -> usize {
        self.gateway.as_ref().unwrap().service(service).unwrap().map_or(0, |service| service.instances.len())
    }

    pub fn builder(&self, service: &str) -> ClientBuilder {
        Client::builder(service).gateway_path(&self.socket)
    }

    pub async fn client(&self, service: &str) -> Client {
        self.builder(service).connect().await.unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.gateway.take());
        // A leftover directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Runs a test in a runtime with two workers.
pub fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(WATCHDOG, test).await.expect("the test hangs") });
    runtime.shutdown_background();
}

/// Waits until something holds that comes about by itself. The watchdog ends the wait if it never does.
pub async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
