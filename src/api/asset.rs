//! Files that are part of the program, compressed when it is built (see `ui/build.rs`).

use super::call::Call;
use crate::base::error::Result;
use crate::net::http::{Response, gzip};

/// A file.
pub struct Asset {
    /// Below the root of the source.
    pub path: &'static str,
    pub media_type: &'static str,
    pub gzip: &'static [u8],
}

impl Asset {
    /// The file as it is stored, or decompressed for a client that does not accept gzip.
    pub fn response(&self, call: &Call<'_>) -> Result<Response> {
        let accept = call.request.header("Accept-Encoding").unwrap_or_default();
        let response = match gzip::is_accepted(accept) {
            true => Response::with_body(200, self.media_type, self.gzip.to_vec())
                .with_header("Content-Encoding", "gzip"),
            false => Response::with_body(200, self.media_type, gzip::decompress(self.gzip)?),
        };
        Ok(response.with_header("Vary", "Accept-Encoding"))
    }
}
