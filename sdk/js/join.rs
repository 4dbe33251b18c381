//! The JavaScript client as one module, so that a page needs no build and no registry.
//!
//! Part of the build script of the server. The modules are joined in the order of their
//! dependencies and without their imports and comments, so their top-level names must be unique.
//! The module exports what the package `vski` exports.

use std::path::Path;
use std::{fs, io};

/// The modules, each after those that it imports.
const MODULES: [&str; 25] = [
    "errors.js",
    "filter.js",
    "backoff.js",
    "body.js",
    "upload.js",
    "stores.js",
    "session.js",
    "replicas.js",
    "transport.js",
    "websocket.js",
    "realtime.js",
    "order.js",
    "live.js",
    "collection.js",
    "batch.js",
    "files.js",
    "auth.js",
    "admins.js",
    "keys.js",
    "settings.js",
    "webhooks.js",
    "cron.js",
    "workflows.js",
    "database.js",
    "client.js",
];
/// The exports.
const FACE: &str = "index.js";

/// Joins the modules of this folder.
pub fn join(folder: &Path) -> io::Result<String> {
    let mut out = format!("// vski {}, sdk/js\n", env!("CARGO_PKG_VERSION"));
    for name in MODULES {
        append_code(&fs::read_to_string(folder.join(name))?, &mut out);
    }
    let face = fs::read_to_string(folder.join(FACE))?;
    for line in face.lines().filter(|line| line.starts_with("export {")) {
        let names = line.split(" from ").next().unwrap_or(line);
        out.push_str(names);
        out.push_str(";\n");
    }
    Ok(out)
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

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/js/src");

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
        let (code, mut names) = (join(Path::new(FOLDER)).unwrap(), BTreeSet::new());
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
        for entry in fs::read_dir(FOLDER).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            // Types only; the sockets of Node.
            if name.ends_with(".js")
                && !["types.js", "websocket-node.js", FACE].contains(&name.as_str())
            {
                assert!(MODULES.contains(&name.as_str()), "{name}");
            }
        }
    }
}
