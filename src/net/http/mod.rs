//! HTTP as plain values: a handler takes a [`Request`] and returns a [`Response`].
//!
//! Neither type knows a socket, so tests call handlers directly. `server` is the only module that
//! uses the engine. `route` maps paths to payloads, `query` parses query strings, `multipart`
//! parses forms, `encode` and `gzip` turn a response into bytes.

pub mod client_address;
mod encode;
pub mod gzip;
pub mod multipart;
pub mod query;
pub mod range;
mod request;
mod response;
pub mod route;
pub mod server;

pub use encode::GZIP_SUFFIX;
#[cfg(test)]
pub use request::InMemory;
pub use request::{
    BodyPolicy, BodyRefusal, BodySink, FREE_BYTES, FinishedSink, Headers, Method, Request,
    RequestId, media_type,
};
pub use response::{Response, Socket};
