//! Outgoing mail against a scripted SMTP server on the loopback address.

mod fake;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::queue::{MAIL_BYTES_MAX, MailQueue, QueuedMail};
use super::{
    Limits, Mail, MailPurpose, MailSettings, Mailer, Relay, Sender, attempt, compose, guard,
};
use crate::base::backoff::Backoff;
use fake::{FakeServer, Script, TIMEOUT};

const FAST: Limits = Limits {
    queue: 25,
    answer: Duration::from_secs(5),
    backoff: Backoff::doubling(Duration::from_millis(5), Duration::from_millis(5)),
    retries: 3,
};

fn settings(fake: &FakeServer, parameters: &str) -> MailSettings {
    MailSettings {
        relay: Relay::parse(&format!("smtp://127.0.0.1:{}{parameters}", fake.port)).unwrap(),
        from: Sender::parse("The Desk <desk@example.com>").unwrap(),
    }
}

fn mailer(fake: &FakeServer, limits: Limits) -> Mailer {
    Mailer::start_with(Some(&settings(fake, "")), limits).unwrap()
}

/// Decodes quoted-printable.
fn unquote(text: &str) -> String {
    let text = text.replace("=\r\n", "");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'=' {
            let digits = std::str::from_utf8(&after[..2]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn mail(to: &str) -> Mail {
    let link = "https://vski.example.com/verify?token=aaaa.bbbb_cccc-dddd";
    Mail {
        purpose: MailPurpose::Reset,
        to: to.to_owned(),
        subject: "Please confirm".to_owned(),
        text: format!("Hello,\n\nopen this:\n{link}\n"),
        link: link.to_owned(),
    }
}

fn soon() -> Instant {
    Instant::now() + TIMEOUT
}

#[test]
fn a_mail_arrives_with_everything_in_it() {
    let fake = FakeServer::start(&[Script::Accept, Script::Accept]);
    let mailer = mailer(&fake, FAST);
    mailer.send(mail("ann@example.org"));
    let mut umlauts = mail("bob@example.org");
    umlauts.subject = "Best\u{e4}tigung".to_owned();
    umlauts.text = format!("Gr\u{fc}\u{df}e \u{1f600}\n.\n{}\n", umlauts.link);
    mailer.send(umlauts);

    let first = fake.session();
    assert!(first.has("EHLO example.com"), "{first:?}");
    assert!(!first.has("AUTH"), "{first:?}");
    assert!(first.has("MAIL FROM:<desk@example.com>"), "{first:?}");
    assert!(first.has("RCPT TO:<ann@example.org>"), "{first:?}");
    assert_eq!(first.header("From"), "\"The Desk\" <desk@example.com>");
    assert_eq!(first.header("To"), "ann@example.org");
    assert_eq!(first.header("Subject"), "Please confirm");
    assert_eq!(first.header("MIME-Version"), "1.0");
    assert_eq!(first.header("Auto-Submitted"), "auto-generated");
    assert_eq!(first.header("Content-Type"), "text/plain; charset=utf-8");
    assert!(first.header("Message-ID").ends_with("@example.com>"));
    assert!(!first.header("Date").is_empty());
    assert!(first.data.contains(&mail("").link), "{}", first.data);

    let second = fake.session();
    assert_eq!(
        second.header("Subject"),
        "=?utf-8?b?QmVzdMOkdGlndW5n?=",
        "{second:?}"
    );
    let body = second.data.split_once("\r\n\r\n").unwrap().1;
    let body = unquote(body).replace("\r\n", "\n");
    let expected = format!("Gr\u{fc}\u{df}e \u{1f600}\n.\n{}\n", mail("").link);
    assert_eq!(body.trim_end(), expected.trim_end());
    assert!(mailer.stop(soon()));
}

#[test]
fn user_and_password_come_out_of_the_url() {
    let fake = FakeServer::start(&[Script::Accept]);
    let url = format!("smtp://user:p%40ss@127.0.0.1:{}/me.example.net", fake.port);
    let settings = MailSettings {
        relay: Relay::parse(&url).unwrap(),
        from: Sender::parse("desk@example.com").unwrap(),
    };
    let mailer = Mailer::start_with(Some(&settings), FAST).unwrap();
    mailer.send(mail("ann@example.org"));
    let session = fake.session();
    assert!(session.has("EHLO me.example.net"), "{session:?}");
    assert!(session.has("AUTH PLAIN AHVzZXIAcEBzcw=="), "{session:?}");
    assert!(mailer.stop(soon()));
}

#[test]
fn a_temporary_refusal_is_tried_again_and_the_mail_stays_the_same() {
    let fake = FakeServer::start(&[
        Script::AnswerData("451 later"),
        Script::AnswerRcpt("450 later"),
        Script::Accept,
    ]);
    let mailer = mailer(&fake, FAST);
    mailer.send(mail("ann@example.org"));
    let first = fake.session();
    assert!(!fake.session().has("DATA"));
    let third = fake.session();
    assert!(!third.data.is_empty());
    assert_eq!(first.data, third.data);
    assert!(mailer.stop(soon()));
}

#[test]
fn four_attempts_are_enough() {
    let later = Script::AnswerRcpt("450 later");
    let fake = FakeServer::start(&[later, later, later, later, Script::Accept]);
    let mailer = mailer(&fake, FAST);
    mailer.send(mail("ann@example.org"));
    for _ in 0..4 {
        assert!(fake.session().has("RCPT TO:<ann@"));
    }
    mailer.send(mail("bob@example.org"));
    assert!(fake.session().has("RCPT TO:<bob@"));
    assert!(mailer.stop(soon()));
}

#[test]
fn a_permanent_refusal_is_not_tried_again() {
    let fake = FakeServer::start(&[Script::AnswerRcpt("550 no such user"), Script::Accept]);
    let mailer = mailer(&fake, FAST);
    mailer.send(mail("ann@example.org"));
    assert!(fake.session().has("RCPT TO:<ann@"));
    mailer.send(mail("bob@example.org"));
    assert!(fake.session().has("RCPT TO:<bob@"));
    assert!(mailer.stop(soon()));
}

#[test]
fn a_mail_that_waits_for_its_next_attempt_delays_no_other_and_is_tried_once_more_at_a_stop() {
    let fake = FakeServer::start(&[
        Script::AnswerRcpt("450 later"),
        Script::Accept,
        Script::AnswerRcpt("450 later"),
    ]);
    let mailer = mailer(
        &fake,
        Limits {
            backoff: Backoff::doubling(Duration::from_secs(3600), Duration::from_secs(3600)),
            ..FAST
        },
    );
    mailer.send(mail("ann@example.org"));
    assert!(fake.session().has("RCPT TO:<ann@"));
    mailer.send(mail("bob@example.org"));
    assert!(fake.session().has("RCPT TO:<bob@"));
    assert!(mailer.stop(soon()));
    assert!(fake.session().has("RCPT TO:<ann@"));
    mailer.send(mail("carl@example.org"));
    assert!(mailer.stop(soon()), "a second stop is nothing");
}

#[test]
fn a_server_that_never_answers_holds_up_neither_send_nor_stop() {
    let fake = FakeServer::start(&[Script::Silent]);
    let mailer = mailer(
        &fake,
        Limits {
            answer: Duration::from_secs(3600),
            ..FAST
        },
    );
    let begun = Instant::now();
    mailer.send(mail("ann@example.org"));
    fake.accepted.recv_timeout(TIMEOUT).unwrap();
    for _ in 0..2 * FAST.queue {
        mailer.send(mail("bob@example.org"));
    }
    let queue = &mailer.0.as_ref().unwrap().queue;
    assert_eq!(queue.count(), MailPurpose::Reset.share(FAST.queue));
    // A queue that is full for one purpose accepts mails of another.
    let other = Mail {
        purpose: MailPurpose::NewAddress,
        ..mail("dan@example.org")
    };
    assert!(queue.push(other).is_ok());
    let refused = queue.push(mail("carl@example.org"));
    assert_eq!(refused.err().unwrap().1, "too many mails are queued");
    assert!(!mailer.stop(Instant::now() + Duration::from_millis(50)));
    assert_eq!(queue.count(), 0);
    assert!(begun.elapsed() < TIMEOUT);
}

#[test]
fn a_silent_server_costs_the_limit_and_the_mail_is_tried_again() {
    let fake = FakeServer::start(&[Script::Silent, Script::Accept]);
    let mailer = mailer(
        &fake,
        Limits {
            answer: Duration::from_secs(1),
            ..FAST
        },
    );
    mailer.send(mail("ann@example.org"));
    assert!(fake.session().commands.is_empty());
    assert!(fake.session().has("EHLO"));
    assert!(mailer.stop(soon()));
}

#[test]
fn a_server_that_is_not_there_ends_in_the_log() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let settings = MailSettings {
        relay: Relay::parse(&format!("smtp://127.0.0.1:{port}")).unwrap(),
        from: Sender::parse("desk@example.com").unwrap(),
    };
    let mut job = job(mail("ann@example.org"));
    let failure = attempt(&settings, &mut job, FAST.answer).unwrap_err();
    assert!(!failure.is_final);
    assert!(failure.text.contains("refused"), "{}", failure.text);
}

fn job(mail: Mail) -> QueuedMail {
    QueuedMail {
        mail,
        message: None,
        failed: 0,
        due: Instant::now(),
    }
}

#[test]
fn where_tls_is_required_nothing_is_said_without_it() {
    let fake = FakeServer::start(&[Script::Accept, Script::AcceptWithTls]);
    let mut job = job(mail("ann@example.org"));

    let failure = attempt(&settings(&fake, "?tls=required"), &mut job, FAST.answer).unwrap_err();
    assert!(failure.is_final && failure.text.contains("STARTTLS"));
    let session = fake.session();
    assert!(!session.has("MAIL") && !session.has("AUTH"), "{session:?}");

    // A loopback server has no certificate for its name, so STARTTLS is not used.
    assert!(attempt(&settings(&fake, ""), &mut job, FAST.answer).is_ok());
    assert!(!fake.session().has("STARTTLS"));
}

#[test]
fn a_server_without_tls_is_an_error_where_tls_is_spoken_from_the_start() {
    let fake = FakeServer::start(&[Script::Accept]);
    let settings = MailSettings {
        relay: Relay::parse(&format!("smtps://127.0.0.1:{}", fake.port)).unwrap(),
        from: Sender::parse("desk@example.com").unwrap(),
    };
    let mut job = job(mail("ann@example.org"));
    let failure = attempt(&settings, &mut job, FAST.answer).unwrap_err();
    assert!(failure.text.contains("corrupt message"), "{}", failure.text);
}

#[test]
fn the_answer_of_the_server_is_in_what_is_logged() {
    let fake = FakeServer::start(&[Script::AnswerRcpt("550 5.1.1 no such user here")]);
    let mut job = job(mail("ann@example.org"));
    let failure = attempt(&settings(&fake, ""), &mut job, FAST.answer).unwrap_err();
    assert!(failure.is_final);
    assert!(failure.text.contains("550"), "{}", failure.text);
    assert!(failure.text.contains("5.1.1 no such user here"));
}

#[test]
fn an_address_cannot_smuggle_anything() {
    let from = Sender::parse("desk@example.com").unwrap();
    for to in [
        "",
        "ann",
        "ann@",
        "@example.org",
        "ann@example.org\r\nBcc: all@example.org",
        "ann@example.org\nBcc: all@example.org",
        "ann\r\n@example.org",
        "\"ann\r\nBcc: all\"@example.org",
        "ann@example.org\r\n",
        "ann@example.org>\r\nRCPT TO:<bob@example.org",
        "ann@example.org> <bob@example.org",
        "ann@example.org, bob@example.org",
        "Ann <ann@example.org>",
        "ann@exam ple.org",
        "ann\0@example.org",
        "ann@example.org\u{85}",
        &format!("ann@{}.org", "x".repeat(100_000)),
        &format!("{}@example.org", "x".repeat(100_000)),
    ] {
        let result = compose(&from, &mail(to));
        assert!(result.is_err(), "{to:?}");
    }
}

#[test]
fn odd_addresses_that_are_addresses_are_taken_whole() {
    let from = Sender::parse("desk@example.com").unwrap();
    for to in [
        "\"a> b\"@example.org",
        "\u{e4}nn@b\u{fc}cher.example",
        "\"a, bob@example.org\"@example.org",
        "\"x\"@example.org",
        "o'ann+tag@example.org",
    ] {
        let message = compose(&from, &mail(to)).unwrap();
        let text = String::from_utf8(message.formatted()).unwrap();
        let head = text.split("\r\n\r\n").next().unwrap();
        assert_eq!(head.matches("\r\nTo: ").count(), 1, "{head}");
        assert_eq!(message.envelope().to().len(), 1);
        assert_eq!(message.envelope().to()[0].to_string(), to);
    }
}

#[test]
fn a_subject_cannot_smuggle_anything() {
    let from = Sender::parse("desk@example.com").unwrap();
    let long = "long ".repeat(2000);
    let solid = "x".repeat(10_000);
    for subject in [
        "Hello\r\nBcc: all@example.org",
        "Hello\nBcc: all@example.org",
        "Hello\rBcc: all@example.org",
        "Hello\r\n\r\nBcc: all@example.org",
        "\r\nBcc: all@example.org",
        "Hello\0\u{85}\u{2028}Bcc: all@example.org",
        "\u{1f600}\r\nBcc: all@example.org",
        &long,
        &solid,
        &"\u{1f600}".repeat(2000),
    ] {
        let mut mail = mail("ann@example.org");
        subject.clone_into(&mut mail.subject);
        let message = compose(&from, &mail).unwrap();
        let text = String::from_utf8(message.formatted()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(body.starts_with("Hello,"), "{text}");
        assert_eq!(message.envelope().to().len(), 1);
        for line in head.split("\r\n") {
            let lower = line.to_ascii_lowercase();
            assert!(!lower.starts_with("bcc") && line.len() <= 998, "{head}");
            assert!(!line.contains(['\r', '\n', '\0']), "{head:?}");
        }
        let names: Vec<&str> = head
            .split("\r\n")
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split(':').next().unwrap())
            .collect();
        assert_eq!(names.len(), 9, "{names:?}");
    }
}

#[test]
fn a_mail_that_is_too_large_is_not_taken() {
    let queue = MailQueue::new(5);
    let mut large = mail("ann@example.org");
    large.text = "x".repeat(MAIL_BYTES_MAX);
    assert_eq!(queue.push(large).err().unwrap().1, "the mail is too large");
    assert!(queue.push(mail("ann@example.org")).is_ok());
    queue.stop(soon());
    let late = queue.push(mail("ann@example.org"));
    assert_eq!(late.err().unwrap().1, "the server is stopping");
}

#[test]
fn a_stop_that_is_over_loses_no_mail_unseen() {
    let queue = MailQueue::new(5);
    assert!(queue.push(mail("ann@example.org")).is_ok());
    queue.stop(Instant::now());
    assert!(queue.next(FAST.answer).is_none());
    assert_eq!(queue.drain().len(), 1);
}

#[test]
fn a_panic_is_the_end_of_one_mail_only() {
    let failure = guard(|| panic!("on purpose")).unwrap_err();
    assert!(failure.is_final);
}

#[test]
fn without_a_server_there_is_no_thread() {
    let mailer = Mailer::start(None).unwrap();
    mailer.send(mail("ann@example.org"));
    assert!(mailer.0.is_none());
    assert!(mailer.stop(Instant::now()));
}

#[test]
fn urls_of_servers() {
    for url in [
        "smtps://user:pass@mail.example.com:465",
        "smtps://mail.example.com",
        "smtp://user:pass@mail.example.com:587?tls=required",
        "smtp://user%40example.com:p%3Fss@mail.example.com/hello.example.com?tls=opportunistic",
        "smtp://user:p@ss@mail.example.com",
        "smtp://localhost",
        "smtp://127.0.0.1:2525/",
    ] {
        assert!(Relay::parse(url).is_some(), "{url}");
    }
    for url in [
        "",
        "mail.example.com",
        "http://mail.example.com",
        "smtp://",
        "smtps://:465",
        "smtps://user@mail.example.com",
        "smtps://user:pass@mail.example.com:port",
        "smtps://user:pass@mail.example.com:99999",
        "smtps://user:pa#ss@mail.example.com",
        "smtps://user:pa/ss@mail.example.com",
        "smtps://user:pa?ss@mail.example.com",
        "smtps://user:pass@mail.example.com?tls=required",
        "smtp://mail.example.com?tls=none",
        "smtp://mail.example.com?tls=required&x=1",
        "smtp://mail example.com",
        "smtp://mail.example.com\r\n",
        "smtp://mail.example.com/a\r\nRSET",
        "smtp://mail.example.com/a%0d%0aRSET",
        "smtp://[::1]:25",
        "smtps://user:%ff@mail.example.com",
    ] {
        assert!(Relay::parse(url).is_none(), "{url}");
    }
}

#[test]
fn only_this_machine_is_spoken_to_without_tls() {
    for (url, mode) in [
        ("smtp://localhost", "None"),
        ("smtp://127.1.2.3:25", "None"),
        ("smtp://localhost?tls=required", "Required"),
        ("smtp://mail.example.com", "Required"),
        ("smtp://mail.example.com/hello", "Required"),
        ("smtp://localhost.example.com", "Required"),
        ("smtp://user:127.0.0.1@mail.example.com", "Required"),
        ("smtp://mail.example.com?tls=opportunistic", "Opportunistic"),
        ("smtps://localhost", "Wrapper"),
    ] {
        let relay = Relay::parse(url).unwrap();
        let shown = format!("{:?}", relay.builder);
        assert!(shown.contains(&format!("tls: {mode}")), "{url}: {shown}");
    }
}

#[test]
fn senders() {
    for (text, shown) in [
        ("desk@example.com", "desk@example.com"),
        (" desk@example.com ", "desk@example.com"),
        ("<desk@example.com>", "desk@example.com"),
        ("Desk <desk@example.com>", "Desk <desk@example.com>"),
        (
            "\"Desk, the\" <desk@example.com>",
            "\"Desk, the\" <desk@example.com>",
        ),
    ] {
        let sender = Sender::parse(text).unwrap();
        assert_eq!(sender.0.to_string(), shown);
    }
    for text in [
        "",
        "desk",
        "Desk desk@example.com",
        "a@example.com, b@example.com",
        "A <a@example.com>, B <b@example.com>",
        "Desk\r\nBcc: <desk@example.com>",
        "desk@example.com\n",
        "Desk <desk@example.com> x",
    ] {
        assert!(Sender::parse(text).is_none(), "{text:?}");
    }
}
