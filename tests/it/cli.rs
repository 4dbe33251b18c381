//! Commands, options, and what they print.

use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::json;

use super::support::server::{Server, command};
use super::support::{Dir, wait_until};

fn run(dir: &Dir, args: &[&str], stdin: &str) -> Output {
    run_with(dir, args, stdin, &[])
}

fn run_with(dir: &Dir, args: &[&str], stdin: &str, variables: &[(&str, &str)]) -> Output {
    let mut child = command(dir.path())
        .args(args)
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line of a refusal.
#[track_caller]
fn refusal(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn help_describes_every_command_and_option() {
    let dir = Dir::new();
    for args in [&["help"][..], &["--help"], &["-h"], &[]] {
        let text = stdout(&run(&dir, args, ""));
        for part in [
            "vski serve",
            "vski admin create",
            "DATA_DIR",
            "--data-dir",
            "[127.0.0.1]",
        ] {
            assert!(text.contains(part), "{args:?} lacks {part}: {text}");
        }
    }
    for command in ["serve", "admin", "routes", "version", "help"] {
        let text = stdout(&run(&dir, &[command, "--help"], ""));
        assert!(text.contains("sage:"), "{command}: {text}");
    }
}

#[test]
fn version_is_that_of_the_package() {
    let text = stdout(&run(&Dir::new(), &["version"], ""));
    assert!(
        text.starts_with(&format!("vski {}", env!("CARGO_PKG_VERSION"))),
        "{text}"
    );
}

#[test]
fn wrong_use_says_what_is_wrong_and_exits_with_2() {
    let dir = Dir::new();
    for (args, part) in [
        (&["sevre"][..], "unknown command sevre"),
        (&["serve", "--prot", "1"], "prot"),
        (&["serve", "now"], "unexpected argument now"),
        (&["admin"], "admin needs a subcommand"),
        (&["admin", "make", "a@b"], "admin needs a subcommand"),
        (&["version", "x"], "unexpected argument x"),
        (&["help", "x"], "unknown command x"),
    ] {
        let line = refusal(&run(&dir, args, ""), 2);
        assert!(line.contains(part), "{args:?}: {line}");
    }
}

#[test]
fn a_wrong_setting_is_refused_with_its_name_its_value_and_what_it_takes() {
    let dir = Dir::new();
    for (name, value) in [
        ("PORT", "http"),
        ("HOST", "nowhere.example"),
        ("THREADS", "0"),
        ("LOG", "loud"),
        ("DB_SYNCHRONOUS", "off"),
        ("TOKEN_HOURS", "never"),
        ("MAX_CONNECTIONS", "-1"),
    ] {
        let line = refusal(&run_with(&dir, &["serve"], "", &[(name, value)]), 2);
        assert!(line.contains(&format!("{name}={value}: must be")), "{line}");
    }
    let flag = refusal(&run(&dir, &["serve", "--port", "99999"], ""), 2);
    assert!(flag.contains("PORT=99999"), "{flag}");
}

#[test]
fn more_connections_than_descriptors_are_refused() {
    let dir = Dir::new();
    let shell = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 256; exec \"$0\" serve",
            super::support::server::VSKI,
        ])
        .env("DATA_DIR", dir.path())
        .env("PORT", "0")
        // It would cause a line of the log.
        .env_remove("SSL_CERT_FILE")
        .output()
        .unwrap();
    let line = refusal(&shell, 2);
    assert!(
        line.contains("MAX_CONNECTIONS=1024") && line.contains("256"),
        "{line}"
    );
}

#[test]
fn a_variable_that_looks_like_an_option_is_named() {
    let server = Server::with(&[("THREDS", "4"), ("LANGUAGE", "en")]);
    let lines = server.log();
    let warned: Vec<&String> = lines
        .iter()
        .filter(|it| it.contains("is not an option"))
        .collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].contains("THREDS") && warned[0].contains("did you mean THREADS?"),
        "{warned:?}"
    );
}

#[test]
fn settings_without_effect_and_another_secret_are_named() {
    let server = Server::with(&[("MASTER_URL", "http://127.0.0.1:9")]);
    let warned = |server: &Server, what: &str| {
        let mut lines = Vec::new();
        wait_until("it says that it has started", || {
            lines = server.log();
            lines.iter().any(|it| it.contains(" info started "))
        });
        lines
            .iter()
            .any(|it| it.contains(" warn ") && it.contains(what))
    };
    let idle = "MASTER_URL has no effect: REPLICA_MODE is master";
    assert!(warned(&server, idle));
    let changed = "the secret differs from that of the last start";
    let server = server.restart();
    assert!(!warned(&server, changed));
    let server = server.restart_with("JWT_SECRET", &"s".repeat(40));
    assert!(warned(&server, changed));
}

#[test]
fn settings_may_be_in_a_file() {
    let own = Dir::new();
    let file = own.path().join("settings");
    let path = file.to_str().unwrap();
    let data = own.path().join("there");
    let made = |text: &str| std::fs::write(&file, text).unwrap();
    made(&format!(
        "# The service's.\n\nDATA_DIR={}\nOTHER='1'\n",
        data.display()
    ));
    let create = ["admin", "create", "op@example.com"];
    let with = [("ENV_FILE", path), ("DATA_DIR", "")];
    let done = run_with(&own, &create, "password-1\n", &with);
    assert!(done.status.success(), "{done:?}");
    assert!(data.join("default.db").exists());
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains(data.to_str().unwrap()), "{text}");
    // Told before a password is asked for.
    let line = refusal(&run_with(&own, &create, "", &with), 1);
    assert!(
        line.contains("with this e-mail address already exists"),
        "{line}"
    );

    made("PORT=none\n");
    let flags = ["serve", "--env-file", path];
    let line = refusal(&run(&own, &flags, ""), 2);
    assert!(line.contains("PORT=none"), "{line}");
    let line = refusal(&run_with(&own, &flags, "", &[("PORT", "nil")]), 2);
    assert!(line.contains("PORT=nil"), "{line}");
    made("PORT=0\nJWT_SECRET 1234\n");
    let line = refusal(&run(&own, &flags, ""), 2);
    assert!(line.contains("line 2") && !line.contains("1234"), "{line}");
    std::fs::remove_file(&file).unwrap();
    let line = refusal(&run(&own, &flags, ""), 2);
    assert!(
        line.contains("ENV_FILE=") && line.contains("No such file"),
        "{line}"
    );
}

#[test]
fn a_taken_port_is_named() {
    let server = Server::start();
    let port = server.addr().port().to_string();
    let line = refusal(&run(&Dir::new(), &["serve", "--port", &port], ""), 1);
    assert!(line.contains(&format!("127.0.0.1:{port}")), "{line}");
}

#[test]
fn flags_win_over_the_environment() {
    let line = refusal(
        &run_with(
            &Dir::new(),
            &["serve", "--threads", "none"],
            "",
            &[("THREADS", "4")],
        ),
        2,
    );
    assert!(line.contains("THREADS=none"), "{line}");
}

#[test]
fn admins_are_managed_on_the_command_line_also_while_the_server_runs() {
    let server = Server::start();
    let dir = server.dir().join("data");
    let dir = dir.to_str().unwrap();
    let own = Dir::new();
    let admin = |args: &[&str], stdin: &str| {
        let args: Vec<&str> = ["admin", "--data-dir", dir]
            .iter()
            .chain(args)
            .copied()
            .collect();
        run(&own, &args, stdin)
    };
    assert!(
        admin(&["create", "op@example.com"], "password-1\n")
            .status
            .success()
    );
    let again = refusal(&admin(&["create", "OP@example.com"], "password-1\n"), 1);
    assert!(again.contains("already"), "{again}");
    assert!(refusal(&admin(&["create", "x@example.com"], "short\n"), 1).contains("password"));
    assert!(refusal(&admin(&["create", "nonsense"], "password-1\n"), 1).contains("email"));

    let api = server.api();
    let login = r#"{"email":"op@example.com","password":"password-1"}"#;
    let token = api
        .post("/api/admins/login", login)
        .expect(200)
        .text("/token")
        .to_owned();
    let signed_in = api.with_token(&token);
    signed_in.get("/api/collections").expect(200);
    assert!(stdout(&admin(&["list"], "")).contains("op@example.com"));

    assert!(
        admin(&["password", "op@example.com"], "password-2\n")
            .status
            .success()
    );
    signed_in.get("/api/collections").expect(401);
    api.post("/api/admins/login", login).expect(401);
    assert!(refusal(&admin(&["delete", "op@example.com"], ""), 1).contains("last admin"));
    assert!(refusal(&admin(&["delete", "no@example.com"], ""), 1).contains("no@example.com"));
}

#[test]
fn routes_lists_every_endpoint() {
    let text = stdout(&run(&Dir::new(), &["routes"], ""));
    assert!(text.lines().count() >= 20, "{text}");
    let line = text
        .lines()
        .find(|line| line.contains("/records/{id}") && line.starts_with("PATCH"));
    assert!(line.unwrap().contains("rules"), "{text}");
}

/// Without a mail server the links that set passwords are in the log, which is no surprise as long
/// as only the operator makes accounts.
#[test]
fn links_in_the_log_are_warned_of_while_everybody_may_register() {
    let warned = |server: &Server| {
        server.api().get("/api/health").expect(200);
        let has = |text: &str| server.log().iter().any(|line| line.contains(text));
        wait_until("the log", || has("path=/api/health"));
        has("SMTP_URL is not set")
    };
    let server = Server::start();
    let admin = server.admin();
    let shut = json!({"name": "shut", "type": "auth"});
    admin.post("/api/collections", shut).expect(200);
    // A contact form has no accounts.
    let form = json!({"name": "forms", "createRule": ""});
    admin.post("/api/collections", form).expect(200);
    let server = server.restart();
    assert!(!warned(&server));
    let admin = server.admin();
    admin
        .post("/api/databases", json!({"name": "shop"}))
        .expect(200);
    let open = json!({"name": "open", "type": "auth", "createRule": ""});
    admin.post("/db/shop/api/collections", open).expect(200);
    let server = server.restart();
    assert!(warned(&server));
    let server = server
        .restart_with("MAIL_FROM", "vski@example.com")
        .restart_with("SMTP_URL", "smtp://127.0.0.1:1");
    assert!(!warned(&server));
}
