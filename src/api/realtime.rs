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

/// Where both are found.
pub const PATH: &str = "/api/realtime";
/// What a browser or a proxy must not do with a stream of events.
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

/// A WebSocket where one is asked for, else a stream of events, whatever `Accept` says.
pub fn listen(call: &Call<'_>) -> Result<Response> {
    check_is_master(call)?;
    // What is asked of HTTP/2 and the like is not done, and need not be.
    if !socket::header_lists(call.request, "Upgrade", "websocket") {
        return match call.request.body.is_empty() {
            true => stream(call),
            false => Err(Error::invalid(
                "A stream of events is asked for by a GET without a body.",
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

/// The peer of a connection, and who pays for it.
fn peer(call: &Call<'_>, client: Option<String>) -> Result<(Payer, Box<dyn SocketHandler>)> {
    let realtime = &call.app.realtime;
    let caller = realtime.caller(credentials(call.request), call.database)?;
    let payer = Payer {
        has_credentials: caller.has_credentials(),
        ..call.payer()
    };
    Ok((payer, realtime.peer(call.database, caller, client)?))
}

/// What a client of server-sent events wants to hear of from now on.
pub fn set_topics(call: &Call<'_>) -> Result<Response> {
    check_is_master(call)?;
    let body: Topics = call.body()?;
    // Parsed, a topic takes many times its bytes.
    if body.subscriptions.len() > SUBS_MAX {
        return Err(Error::conflict(format!(
            "A client has at most {SUBS_MAX} topics."
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
            "Realtime is served by the master, {}.",
            replica.client.master_url
        ))),
    }
}
