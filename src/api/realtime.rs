//! Realtime: the WebSocket, and server-sent events in the protocol of PocketBase.

use serde::Deserialize;

use super::Call;
use super::credentials;
use super::socket;
use crate::error::Error;
use crate::error::Result;
use crate::http::Response;
use crate::http::query::percent_decode;
use crate::realtime::Topic;
use crate::realtime::new_client;

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

pub fn listen(call: &Call<'_>) -> Result<Response> {
    check_is_master(call)?;
    if socket::lists(call.request, "Accept", "text/event-stream") {
        return stream(call);
    }
    socket::check_wish(call.request)?;
    let peer = call
        .app
        .realtime
        .peer(call.database, credentials(call.request), None)?;
    socket::upgrade(call, peer)
}

fn stream(call: &Call<'_>) -> Result<Response> {
    let client = new_client()?;
    let peer = call
        .app
        .realtime
        .peer(call.database, credentials(call.request), Some(client))?;
    let peer = socket::charged(call, peer)?;
    let Some(place) = call.app.sockets.reserve() else {
        return Err(socket::too_many());
    };
    let headers = STREAM_HEADERS.map(|(name, value)| (name, value.to_owned()));
    Ok(Response::event_stream(
        headers.to_vec(),
        Box::new(move |socket| place.adopt_stream(socket.stream, peer)),
    ))
}

/// What a client of server-sent events wants to hear of from now on.
pub fn set_topics(call: &Call<'_>) -> Result<Response> {
    check_is_master(call)?;
    let body: Topics = call.body()?;
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
