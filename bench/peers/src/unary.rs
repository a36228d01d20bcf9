//! gRPC: unary calls with tonic from process to process over a Unix socket. What a build script would generate is written out.

use crate::turns;
use crate::window::say;
use anyhow::Result;
use http::uri::PathAndQuery;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// More than are in flight: hyper's own limit is lower.
const STREAMS_MAX: u32 = 1024;

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, Copy)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<Text> for Echo {
    type Response = Text;
    type Future = Ready<Result<Response<Text>, Status>>;

    fn call(&mut self, request: Request<Text>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = *self;
        Box::pin(async move {
            let codec = ProstCodec::<Text, Text>::default();
            Ok(tonic::server::Grpc::new(codec).unary(echo, request).await)
        })
    }
}

/// Answers for ever.
pub(crate) async fn answer(directory: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket(directory))?;
    say("ready")?;
    let mut server = Server::builder().max_concurrent_streams(STREAMS_MAX);
    server.add_service(Echo).serve_with_incoming(UnixListenerStream::new(listener)).await?;
    Ok(())
}

/// Calls until standard input ends.
pub(crate) async fn call(directory: &Path) -> Result<()> {
    let channel = Endpoint::try_from(format!("unix://{}", socket(directory).display()))?.connect().await?;
    turns::call(move |text| {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        async move {
            grpc.ready().await?;
            let path = PathAndQuery::from_static("/bench.Echo/Echo");
            let answer: Response<Text> =
                grpc.unary(Request::new(Text { text }), path, ProstCodec::<Text, Text>::default()).await?;
            Ok(answer.into_inner().text)
        }
    })
    .await
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("grpc.sock")
}
