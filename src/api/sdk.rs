//! The JavaScript client of `sdk/js` as one module, so that a page needs no build and no registry.
//!
//! The modules of the client are part of the program. They are joined once, in the order of their
//! dependencies and without their imports and comments, so their top-level names must be unique.
//! The module exports what the package `vski` exports.

use std::sync::LazyLock;

use super::call::Call;
use crate::base::error::Result;
use crate::base::{crypto, ids};
use crate::net::http::{Response, range};

/// The modules, each after those that it imports.
const MODULES: [&str; 25] = [
    include_str!("../../sdk/js/src/errors.js"),
    include_str!("../../sdk/js/src/filter.js"),
    include_str!("../../sdk/js/src/backoff.js"),
    include_str!("../../sdk/js/src/body.js"),
    include_str!("../../sdk/js/src/upload.js"),
    include_str!("../../sdk/js/src/stores.js"),
    include_str!("../../sdk/js/src/session.js"),
    include_str!("../../sdk/js/src/replicas.js"),
    include_str!("../../sdk/js/src/transport.js"),
    include_str!("../../sdk/js/src/websocket.js"),
    include_str!("../../sdk/js/src/realtime.js"),
    include_str!("../../sdk/js/src/order.js"),
    include_str!("../../sdk/js/src/live.js"),
    include_str!("../../sdk/js/src/collection.js"),
    include_str!("../../sdk/js/src/batch.js"),
    include_str!("../../sdk/js/src/files.js"),
    include_str!("../../sdk/js/src/auth.js"),
    include_str!("../../sdk/js/src/admins.js"),
    include_str!("../../sdk/js/src/keys.js"),
    include_str!("../../sdk/js/src/settings.js"),
    include_str!("../../sdk/js/src/webhooks.js"),
    include_str!("../../sdk/js/src/cron.js"),
    include_str!("../../sdk/js/src/workflows.js"),
    include_str!("../../sdk/js/src/database.js"),
    include_str!("../../sdk/js/src/client.js"),
];

/// The exports.
const FACE: &str = include_str!("../../sdk/js/src/index.js");

struct Module {
    code: String,
    tag: String,
}

static MODULE: LazyLock<Module> = LazyLock::new(|| {
    let code = module();
    let tag = ids::hex(&crypto::sha256(code.as_bytes())[..16]);
    Module { code, tag }
});

/// The client. It is checked with each use, and kept for good under the version of the server.
pub fn client(call: &Call<'_>) -> Result<Response> {
    let Module { code, tag } = &*MODULE;
    let is_current = range::is_match(call.request.header("If-None-Match"), tag)
        || range::is_match(call.request.header("If-None-Match"), &format!("{tag}-gzip"));
    let response = match is_current {
        true => Response::empty(304),
        false => Response::with_body(200, "text/javascript; charset=utf-8", code.clone().into()),
    };
    let pairs = call.query()?;
    let version = pairs.iter().find(|(name, _)| name == "v");
    let is_versioned = version.is_some_and(|(_, version)| version == env!("CARGO_PKG_VERSION"));
    let cache = match is_versioned {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    Ok(response
        .with_header("ETag", format!("\"{tag}\""))
        .with_header("Cache-Control", cache))
}

fn module() -> String {
    let mut out = format!("// vski {}, sdk/js\n", env!("CARGO_PKG_VERSION"));
    for text in MODULES {
        append_code(text, &mut out);
    }
    for line in FACE.lines().filter(|line| line.starts_with("export {")) {
        let names = line.split(" from ").next().unwrap_or(line);
        out.push_str(names);
        out.push_str(";\n");
    }
    out
}

/// Appends the lines of a module that are code. Imports and comments begin and end with a line.
fn append_code(text: &str, out: &mut String) {
    let mut is_comment = false;
    for line in text.lines() {
        let code = line.trim_start();
        is_comment |= code.starts_with("/**");
        if !is_comment
            && !code.is_empty()
            && !code.starts_with("//")
            && !code.starts_with("import ")
        {
            out.push_str(line.strip_prefix("export ").unwrap_or(line));
            out.push('\n');
        }
        if is_comment && let Some((_, rest)) = code.rsplit_once("*/") {
            is_comment = false;
            if !rest.trim().is_empty() {
                out.push_str(rest);
                out.push('\n');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn comments_imports_and_exports_are_removed() {
        let text = "// head\nimport { a } from './a.js';\n\n/** Doc. */\nexport class B {\n  /**\n   * x\n   */\n  \
                    c() {} // why\n  /** @type {any} */ #d;\n}\n";
        let mut out = String::new();
        append_code(text, &mut out);
        assert_eq!(out, "class B {\n  c() {} // why\n #d;\n}\n");
    }

    #[test]
    fn the_names_of_all_modules_are_unique() {
        let (code, mut names) = (module(), BTreeSet::new());
        for line in code.lines() {
            let declares = [
                "class ",
                "function ",
                "const ",
                "async function ",
                "function* ",
            ];
            let Some(rest) = declares.iter().find_map(|it| line.strip_prefix(it)) else {
                continue;
            };
            let end = rest.find(|it: char| !it.is_alphanumeric() && it != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            assert!(names.insert(name.to_owned()), "{name} is declared twice");
        }
        assert!(
            names.contains("VskiClient") && names.len() > 40,
            "{names:?}"
        );
    }

    #[test]
    fn every_file_of_the_client_is_part_of_the_module() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/js/src");
        let source = include_str!("sdk.rs");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // Types only; the sockets of Node.
            if !["types.js", "websocket-node.js"].contains(&name.as_str()) && name.ends_with(".js")
            {
                assert!(source.contains(&format!("/{name}\"")), "{name}");
            }
        }
    }
}
