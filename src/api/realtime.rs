//! Realtime: the WebSocket, and server-sent events in the protocol of PocketBase.

use serde::Deserialize;

use super::call::{Call, credentials};
use super::socket;
use crate::base::budget::Payer;
use crate::base::error::{Error, Result};
use crate::net::http::Response;
use crate::net::http::query::percent_decode;
use crate::net::sockets::SocketHandler;
use crate::services::realtime::{SUBS_MAX, Topic, new_client};

/// The path of both.
pub const PATH: &str = "/api/realtime";
/// Headers that keep browsers and proxies from caching or buffering a stream of events.
const STREAM_HEADERS: [(&str, &str); 3] = [
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-store"),
    ("X-Accel-Buffering", "no"),
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Topics {
    client_id: String,
    #[serde(default)]
    subscriptions: Vec<String>,
}

/// Opens a WebSocket if the request is a handshake, else a stream of events. `Accept` is ignored.
pub fn listen(call: &Call<'_>) -> Result<Response> {
    check_is_master(call)?;
    // An upgrade to another protocol, such as HTTP/2, may be ignored.
    if !socket::header_lists(call.request, "Upgrade", "websocket") {
        return match call.request.body.is_empty() {
            true => stream(call),
            false => Err(Error::invalid(
                "A request for a stream of events must have no body.",
            )),
        };
    }
    socket::check_handshake(call.request)?;
    let (payer, peer) = peer(call, None)?;
    socket::upgrade(call, payer, peer)
}

fn stream(call: &Call<'_>) -> Result<Response> {
    let (payer, peer) = peer(call, Some(new_client()?))?;
    let permit = call.app.sockets.reserve(payer)?;
    let headers = STREAM_HEADERS.map(|(name, value)| (name, value.to_owned()));
    Ok(Response::event_stream(
        headers.to_vec(),
        Box::new(move |socket| permit.register_stream(socket.stream, peer)),
    ))
}

/// The handler of a connection and its payer.
fn peer(call: &Call<'_>, client: Option<String>) -> Result<(Payer, Box<dyn SocketHandler>)> {
    let realtime = &call.app.realtime;
    let caller = realtime.caller(credentials(call.request), call.database)?;
    let payer = Payer {
        has_credentials: caller.has_credentials(),
        ..call.payer()
    };
    Ok((payer, realtime.handler(call.database, caller, client)?))
}

/// Replaces the topics of a client of server-sent events.
pub fn set_topics(call: &Call<'_>) -> Result<Response> {
    check_is_master(call)?;
    let body: Topics = call.body()?;
    // Checked before parsing: a parsed topic takes many times its bytes.
    if body.subscriptions.len() > SUBS_MAX {
        return Err(Error::conflict(format!(
            "A client may have at most {SUBS_MAX} topics."
        )));
    }
    let topics = body.subscriptions.iter();
    let topics =
        topics.map(|text| Topic::parse(text, |raw| Some(percent_decode(raw)?.into_owned())));
    let topics = topics.collect::<Result<Vec<_>>>()?;
    let credentials = credentials(call.request);
    let realtime = &call.app.realtime;
    realtime.set_topics(body.client_id, call.database, credentials, topics)?;
    Ok(Response::empty(204))
}

fn check_is_master(call: &Call<'_>) -> Result<()> {
    match call.app.replica() {
        None => Ok(()),
        Some(replica) => Err(Error::unavailable(format!(
            "Realtime is available on the master only, at {}.",
            replica.client.master_url
        ))),
    }
}
