//! Webhooks, end to end: what the log tells arrives signed and in order, through failures, kill -9 and
//! receivers that are slow, gone or elsewhere; and a storm of conflicts is told of in a few words.

#![cfg(feature = "production")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run the real binary on real disks and sockets"
)]

mod receiver;
mod server;

use receiver::{Heard, Receiver, Says};
use serde_json::Value;
use server::{Server, cli_with, folder, refused_start, stderr, stdout};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tidelock_engine::policy::parse;

const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The default configuration and these webhooks: name, address, and what else is said of each.
fn configure(data: &Path, hooks: &[(&str, &str, &str)]) {
    std::fs::create_dir_all(data).unwrap();
    std::fs::write(data.join("hook.secret"), SECRET).unwrap();
    let mut config = parse::DEFAULT.to_owned();
    for (name, url, more) in hooks {
        config.push_str(&format!(
            "\n[[webhook]]\nname = {name:?}\nurl = {url:?}\nsecret_file = \"hook.secret\"\n{more}\n"
        ));
    }
    std::fs::write(data.join("tidelock.toml"), config).unwrap();
}

/// An operator's act, which is logged.
fn act(server: &Server, why: &str) {
    let body = format!("{{\"state\":\"auto\",\"reason\":\"{why}\"}}");
    let reply = server.send("POST", "/v1/stores/kv/breaker", body.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
}

/// Writes by somebody who has read nothing: each but the first makes a conflict.
fn put_unseen(server: &Server, key: &str, value: &str) {
    let path = format!("/v1/records/files/{key}");
    let answer = server.send_with("PUT", &path, &[("x-context", "")], value.as_bytes());
    assert!(answer.status < 300, "{answer:?}");
}

fn hook(server: &Server, name: &str) -> Value {
    let answer = server.send("GET", &format!("/v1/webhooks/{name}"), b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// Waits until a webhook is so.
fn until(server: &Server, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    server.until(what, || is(&hook(server, name)));
    hook(server, name)
}

fn reasons(heard: &[Heard]) -> Vec<String> {
    let reason = |heard: &Heard| heard.json["data"]["event"]["reason"].as_str().map(str::to_owned);
    heard.iter().filter_map(reason).collect()
}

/// Entries of the log of one kind.
fn logged(server: &Server, kind: &str) -> usize {
    let args = ["audit", "list", "--kind", kind, "--limit", "1000", "--json"];
    stdout(&server.cli(&args)).matches(&format!("\"kind\":\"{kind}\"")).count()
}

#[test]
fn a_conflict_arrives_signed_as_the_log_spells_it_and_what_was_before_does_not() {
    let (_folder, data) = folder();
    let server = Server::start(&data);
    act(&server, "before there was a webhook");
    server.stop();
    let receiver = Receiver::start(|_, _| Says::Status(204));
    configure(&data, &[("ops", &receiver.url("/hooks?team=1"), "")]);
    let server = Server::start(&data);
    put_unseen(&server, "tide", "one");
    put_unseen(&server, "tide", "two");
    act(&server, "after");
    receiver.until_heard(2);
    let heard = receiver.heard();
    let kinds: BTreeSet<&str> = heard.iter().filter_map(|it| it.json["type"].as_str()).collect();
    assert_eq!(kinds, BTreeSet::from(["conflict", "operator"]));
    for heard in &heard {
        heard.verify(SECRET);
        assert!(heard.head.starts_with("POST /hooks?team=1 HTTP/1.1"), "{}", heard.head);
        assert_eq!(heard.header("content-type"), Some("application/json"));
        assert_eq!((&heard.json["node"], &heard.json["site"]), (&1.into(), &0.into()));
    }
    let log = std::fs::read_to_string(data.join("audit/00000001.jsonl")).unwrap();
    let line = log.lines().find(|line| line.contains("\"kind\":\"conflict\"")).unwrap();
    let conflict = heard.iter().find(|it| it.json["type"] == "conflict").unwrap();
    assert!(conflict.body.contains(line), "{} is not in {}", line, conflict.body);
    assert_eq!(conflict.json["data"]["event"]["record"]["key"], "tide");
    assert!(conflict.json["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')));
    let shown = until(&server, "ops", "all was told", |hook| hook["behind"] == 0);
    assert_eq!(
        (&shown["state"], &shown["url"]),
        (&"following".into(), &receiver.url("/hooks").into())
    );
    assert_eq!((&shown["place"], &shown["last_answer"]["status"]), (&3.into(), &204.into()));
    server.stop();
}

#[test]
fn what_is_not_taken_is_told_again_alike_and_in_its_order() {
    let (_folder, data) = folder();
    let receiver = Receiver::start(|_, nth| Says::Status(if nth < 2 { 500 } else { 200 }));
    configure(&data, &[("ops", &receiver.url("/"), "kinds = [\"operator\"]")]);
    let server = Server::start(&data);
    act(&server, "first");
    act(&server, "second");
    receiver.until_heard(4);
    let heard = receiver.heard();
    assert_eq!(reasons(&heard), ["first", "first", "first", "second"]);
    let ids: Vec<&str> = heard.iter().filter_map(|it| it.header("webhook-id")).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[2] != ids[3], "{ids:?}");
    assert!(heard[0].body == heard[2].body);
    heard.iter().for_each(|heard| heard.verify(SECRET));
    until(&server, "ops", "it is well again", |hook| hook["consecutive_failures"] == 0);
    server.stop();
}

#[test]
fn what_is_never_taken_is_a_dead_letter_and_what_follows_arrives() {
    let (_folder, data) = folder();
    let receiver = Receiver::start(|heard, _| match heard.body.contains("poison") {
        true => Says::Status(422),
        false => Says::Status(200),
    });
    configure(&data, &[("ops", &receiver.url("/"), "kinds = [\"operator\"]\nattempts = 3")]);
    let server = Server::start(&data);
    for why in ["poison one", "poison two", "wholesome"] {
        act(&server, why);
    }
    receiver.until("the wholesome one", |heard| reasons(heard).contains(&"wholesome".to_owned()));
    let tries = |heard: &[Heard], why: &str| reasons(heard).iter().filter(|it| *it == why).count();
    assert_eq!(tries(&receiver.heard(), "poison one"), 3);
    let dead = hook(&server, "ops")["dead_letters"].as_array().cloned().unwrap();
    let ids: Vec<String> = dead.iter().map(|it| it["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(
        (dead.len(), &dead[0]["answer"], &dead[0]["attempts"]),
        (2, &"422".into(), &3.into())
    );
    let metrics = server.send("GET", "/v1/metrics", b"").text();
    for line in [
        "tidelock_webhook_deliveries_total{webhook=\"ops\",outcome=\"failed\"} 6",
        "tidelock_webhook_deliveries_total{webhook=\"ops\",outcome=\"dead\"} 2",
        "tidelock_webhook_dead_letters{webhook=\"ops\"} 2",
        "tidelock_webhook_behind{webhook=\"ops\"} ",
        "tidelock_webhook_state{webhook=\"ops\",state=\"following\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    server.kill();
    let server = Server::start(&data);
    let listed = stdout(&server.cli(&["webhook", "list"]));
    assert!(listed.contains("ops  following") && listed.contains(&ids[1]), "{listed}");

    let refused = server.cli(&["webhook", "retry", "ops", &ids[0]]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    assert_eq!(hook(&server, "ops")["dead_letters"][0]["attempts"], 4);
    receiver.says(|_, _| Says::Status(200));
    let taken = server.cli(&["webhook", "retry", "ops", &ids[0], "--json"]);
    let taken: Value = serde_json::from_slice(&taken.stdout).unwrap();
    assert_eq!((&taken["delivered"], &taken["id"]), (&true.into(), &ids[0].as_str().into()));
    let given_up = server.cli(&["webhook", "discard", "ops", &ids[1], "--reason", "no use"]);
    assert!(given_up.status.success(), "{}", stderr(&given_up));
    assert_eq!(hook(&server, "ops")["dead_letters"], Value::Array(Vec::new()));
    let again = server.cli(&["webhook", "retry", "ops", &ids[0]]);
    assert_eq!(again.status.code(), Some(4), "{}", stderr(&again));
    let nobody = server.cli(&["webhook", "test", "nobody"]);
    assert_eq!(nobody.status.code(), Some(4), "{}", stderr(&nobody));
    assert!(stderr(&nobody).contains("declares ops"), "{}", stderr(&nobody));
    let log = stdout(&server.cli(&["audit", "list", "--kind", "operator"]));
    for action in ["webhook retry", "webhook discard", "no use"] {
        assert!(log.contains(action), "{action}: {log}");
    }
    server.kill();
    let server = Server::start(&data);
    assert_eq!(hook(&server, "ops")["dead_letters"], Value::Array(Vec::new()), "for good");
    server.stop();
}

#[test]
fn kill_9_in_the_middle_of_a_delivery_loses_nothing() {
    let (_folder, data) = folder();
    let receiver = Receiver::start(|_, nth| match nth {
        0 => Says::Status(200),
        _ => Says::Nothing,
    });
    configure(&data, &[("ops", &receiver.url("/"), "kinds = [\"operator\"]")]);
    let server = Server::start(&data);
    for why in ["first", "second", "third"] {
        act(&server, why);
    }
    receiver.until_heard(2);
    server.kill();
    receiver.says(|_, _| Says::Status(200));
    let server = Server::start(&data);
    act(&server, "fourth");
    receiver.until_heard(5);
    assert_eq!(reasons(&receiver.heard()), ["first", "second", "second", "third", "fourth"]);
    server.stop();
}

#[test]
fn one_receiver_holds_back_no_other() {
    let (_folder, data) = folder();
    let slow = Receiver::start(|_, _| Says::Nothing);
    let well = Receiver::start(|_, _| Says::Status(200));
    // Nobody listens there.
    let hooks = [
        ("slow", slow.url("/"), ""),
        ("nobody", "http://127.0.0.1:1/".to_owned(), ""),
        ("well", well.url("/"), "kinds = [\"operator\"]"),
    ];
    let hooks = hooks.each_ref().map(|(name, url, more)| (*name, url.as_str(), *more));
    configure(&data, &hooks);
    let server = Server::start(&data);
    (0..20).for_each(|n| act(&server, &n.to_string()));
    well.until_heard(20);
    assert_eq!(reasons(&well.heard()), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(slow.heard().len(), 1, "and the log grew all the same");
    assert_eq!(hook(&server, "slow")["behind"], 20);
    let nobody = until(&server, "nobody", "it was tried", |hook| hook["failed"] != 0);
    assert_eq!(nobody["last_answer"]["status"], Value::Null, "{nobody}");
    let log = data.with_extension("log");
    assert!(server.stop().success());
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("stopped"), "a receiver that does not answer keeps no server: {log}");
}

/// Conflicts that were told: each entry's number once, however often it came.
fn told(heard: &[Heard]) -> (BTreeSet<String>, u64) {
    let mut ids = BTreeSet::new();
    let mut count = 0;
    for heard in heard {
        let counts = match heard.json["type"].as_str() {
            Some("conflict") => 1,
            Some("conflict-storm") => heard.json["data"]["count"].as_u64().unwrap(),
            _ => continue,
        };
        if ids.insert(heard.header("webhook-id").unwrap().to_owned()) {
            count += counts;
        }
    }
    (ids, count)
}

#[test]
fn a_storm_arrives_in_a_few_words_and_the_log_has_all_of_it() {
    let (_folder, data) = folder();
    let brief = Receiver::start(|_, _| Says::Status(200));
    let every = Receiver::start(|_, _| Says::Status(200));
    let kinds = "kinds = [\"conflict\"]\n";
    configure(
        &data,
        &[
            ("brief", &brief.url("/"), kinds),
            ("every", &every.url("/"), &format!("{kinds}storms = \"every\"")),
        ],
    );
    let server = Server::start(&data);
    (0..51).for_each(|n| put_unseen(&server, "hot", &n.to_string()));
    every.until_heard(50);
    brief.until("the storm is told", |heard| told(heard).1 == 50);
    let heard = brief.heard();
    assert_eq!(heard.len(), 6, "five one by one, and a summary: {heard:?}");
    let storm = &heard[5].json["data"];
    assert_eq!((&storm["record"]["key"], &storm["count"]), (&"hot".into(), &45.into()));
    assert_eq!(storm["strategies"], Value::Array(vec!["lww".into()]));
    assert_eq!((&storm["first_seq"], &storm["last_seq"]), (&6.into(), &50.into()));
    let (from_ms, to_ms) = (storm["from_ms"].as_u64().unwrap(), storm["to_ms"].as_u64().unwrap());
    assert!(from_ms <= to_ms && from_ms > 1_600_000_000_000, "{storm}");
    heard.iter().for_each(|heard| heard.verify(SECRET));
    assert_eq!(logged(&server, "conflict"), 50);
    assert_eq!(told(&every.heard()).0.len(), 50);
    // Those who follow the events are told every entry, unless they ask otherwise.
    let events = |query: &str, last: &str| receiver::events(&server, query, last);
    assert_eq!(events("after=0", "{\"seq\":50,").len(), 50);
    let brief = events("after=0&storms=summarised", "conflict-storm");
    assert_eq!(brief.len(), 6, "{brief:?}");
    assert!(brief[5].1.contains("\"count\":45"), "{brief:?}");
    assert_eq!(brief[5].0, 50, "from there on nothing is missing");
    let refused = server.send("GET", "/v1/events?storms=some", b"");
    assert_eq!(refused.problem(), "bad-request");
    server.stop();
}

#[test]
fn kill_9_in_the_middle_of_a_storm_loses_none_of_it_and_tells_none_twice() {
    let (_folder, data) = folder();
    let receiver = Receiver::start(|_, _| Says::Status(200));
    configure(&data, &[("ops", &receiver.url("/"), "kinds = [\"conflict\"]")]);
    let server = Server::start(&data);
    (0..31).for_each(|n| put_unseen(&server, "hot", &n.to_string()));
    put_unseen(&server, "cold", "one");
    put_unseen(&server, "cold", "two");
    receiver.until_heard(6);
    let place = || -> Value {
        let text = std::fs::read(data.join("webhooks/ops.place.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    server.until("the place is written", || place()["through_seq"] == 31);
    server.kill();
    assert_eq!(told(&receiver.heard()).1, 6, "the storm is being counted");
    let storm = &place()["storms"][0];
    assert_eq!((&storm["first_seq"], &storm["count"]), (&6.into(), &25.into()), "{storm}");
    let server = Server::start(&data);
    (31..41).for_each(|n| put_unseen(&server, "hot", &n.to_string()));
    server.until("all is logged", || logged(&server, "conflict") == 41);
    receiver.until("all of it was told", |heard| told(heard).1 >= 41);
    std::thread::sleep(Duration::from_millis(300));
    let (ids, count) = told(&receiver.heard());
    assert_eq!(count, 41, "{ids:?}");
    until(&server, "ops", "nothing is counted", |hook| hook["storms"] == 0 && hook["behind"] == 0);
    server.stop();
}

#[test]
fn a_summary_whose_answer_was_lost_with_the_server_comes_again_as_the_same() {
    let (_folder, data) = folder();
    let receiver = Receiver::start(|heard, _| match heard.json["type"] == "conflict-storm" {
        true => Says::Nothing,
        false => Says::Status(200),
    });
    configure(&data, &[("ops", &receiver.url("/"), "kinds = [\"conflict\"]")]);
    let server = Server::start(&data);
    (0..21).for_each(|n| put_unseen(&server, "hot", &n.to_string()));
    let is_storm = |heard: &Heard| heard.json["type"] == "conflict-storm";
    receiver.until("the summary was sent", |heard| heard.iter().any(is_storm));
    // What is counted from here on is another summary's.
    (21..31).for_each(|n| put_unseen(&server, "hot", &n.to_string()));
    assert_eq!(hook(&server, "ops")["place"], 5, "what is in it was not told");
    server.kill();
    receiver.says(|_, _| Says::Status(200));
    let server = Server::start(&data);
    receiver.until("all of it was told", |heard| told(heard).1 >= 30);
    let heard = receiver.heard();
    let storms: Vec<&Heard> = heard.iter().filter(|heard| is_storm(heard)).collect();
    assert!(storms[0].body == storms[1].body, "{storms:?}");
    assert_eq!(storms[0].header("webhook-id"), storms[1].header("webhook-id"));
    assert_eq!(told(&heard).1, 30);
    server.stop();
}

#[test]
fn a_receiver_that_is_gone_is_left_alone_until_it_takes_a_test() {
    let (_folder, data) = folder();
    let receiver = Receiver::start(|_, _| Says::Status(410));
    configure(&data, &[("ops", &receiver.url("/"), "kinds = [\"operator\"]")]);
    let server = Server::start(&data);
    act(&server, "first");
    until(&server, "ops", "it is disabled", |hook| hook["state"] == "disabled");
    assert!(server.log().contains("webhook test ops"), "{}", server.log());
    act(&server, "second");
    let refused = server.cli(&["webhook", "test", "ops"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stdout(&refused).contains("410"), "{}", stdout(&refused));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(reasons(&receiver.heard()), ["first"], "nothing more is told");
    receiver.says(|_, _| Says::Status(200));
    let taken = server.cli(&["webhook", "test", "ops"]);
    assert!(taken.status.success(), "{}", stderr(&taken));
    receiver.until("all was told", |heard| reasons(heard).contains(&"second".to_owned()));
    let heard = receiver.heard();
    assert_eq!(reasons(&heard[..1]), ["first"]);
    let pings: Vec<&Heard> = heard.iter().filter(|heard| heard.json["type"] == "ping").collect();
    assert_eq!(pings.len(), 2);
    pings.iter().for_each(|ping| ping.verify(SECRET));
    let tests = |text: &str| text.matches("webhook test").count();
    assert_eq!(tests(&stdout(&server.cli(&["audit", "list", "--kind", "operator"]))), 2);
    assert_eq!(
        hook(&server, "ops")["dead_letters"],
        Value::Array(Vec::new()),
        "it was not given up"
    );
    server.stop();
}

#[test]
fn a_redirect_is_not_followed_and_a_long_answer_not_read() {
    let (_folder, data) = folder();
    let elsewhere = Receiver::start(|_, _| Says::Status(200));
    let target = elsewhere.url("/");
    let pointing = Receiver::start(move |_, _| Says::Elsewhere(target.clone()));
    let talking = Receiver::start(|_, _| Says::Endless);
    configure(
        &data,
        &[
            ("pointing", &pointing.url("/"), "attempts = 1"),
            ("talking", &talking.url("/"), "attempts = 1"),
        ],
    );
    let server = Server::start(&data);
    act(&server, "one");
    let dead = |hook: &Value| hook["dead_letters"].as_array().is_some_and(|it| it.len() == 1);
    let hook = until(&server, "pointing", "it is a dead letter", dead);
    assert_eq!(hook["last_answer"]["status"], 307, "{hook}");
    assert!(elsewhere.heard().is_empty());
    let hook = until(&server, "talking", "it is a dead letter", dead);
    let said = hook["last_answer"]["answer"].as_str().unwrap();
    assert!(said.starts_with("500: xxx") && said.len() < 300, "{said}");
    server.stop();
}

#[test]
fn a_place_that_has_left_the_log_is_said_to_be_gone() {
    let (_folder, data) = folder();
    let receiver = Receiver::start(|_, _| Says::Nothing);
    configure(&data, &[("ops", &receiver.url("/"), "kinds = [\"operator\"]")]);
    let server = Server::start(&data);
    ["first", "second", "third"].iter().for_each(|why| act(&server, why));
    receiver.until_heard(1);
    server.kill();
    // As if older segments had been archived, and the archive carried away.
    let (old, new) = (data.join("audit/00000001.jsonl"), data.join("audit/00000002.jsonl"));
    let log = std::fs::read_to_string(&old).unwrap();
    std::fs::write(&new, format!("{}\n", log.lines().nth(2).unwrap())).unwrap();
    std::fs::remove_file(&old).unwrap();
    receiver.says(|_, _| Says::Status(200));
    let server = Server::start(&data);
    receiver.until_heard(2);
    assert_eq!(reasons(&receiver.heard()), ["first", "third"]);
    let shown = until(&server, "ops", "all is told", |hook| hook["behind"] == 0);
    assert_eq!((&shown["missed"], &shown["place"]), (&2.into(), &3.into()));
    assert!(server.log().contains("carried away"), "{}", server.log());
    server.kill();
    // And a log that was begun anew.
    std::fs::remove_dir_all(data.join("audit")).unwrap();
    let server = Server::start(&data);
    act(&server, "anew");
    receiver.until_heard(3);
    assert_eq!(reasons(&receiver.heard())[2], "anew");
    server.stop();
}

#[test]
fn secrets_that_nothing_can_be_signed_with_are_refused() {
    let (_folder, data) = folder();
    let refused = |more: &str, says: &str| {
        let config = format!(
            "{}\n[[webhook]]\nname = \"ops\"\nurl = \"http://127.0.0.1:1/\"\n{more}\n",
            parse::DEFAULT
        );
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("tidelock.toml"), config).unwrap();
        let (code, said) = refused_start(&data, &[]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(says), "{says}: {said}");
    };
    refused("secret_file = \"none\"", "webhook \"ops\"");
    refused("secret_file = \"none\"", "No such file");
    std::fs::write(data.join("short"), "whsec_c2hvcnQ=").unwrap();
    refused("secret_file = \"short\"", "has 5 bytes");
    std::fs::write(data.join("plain"), "correct horse battery staple").unwrap();
    refused("secret_file = \"plain\"", "openssl rand");
    refused("secret_env = \"TIDELOCK_TEST_NO_SUCH_SECRET\"", "TIDELOCK_TEST_NO_SUCH_SECRET");
    refused("kinds = [\"eclipse\"]", "webhook.kinds");
}

#[test]
fn a_secret_can_be_drawn_or_stand_in_the_environment() {
    let (_folder, data) = folder();
    let receiver = Receiver::start(|_, _| Says::Status(200));
    let config = format!(
        "{}\n[[webhook]]\nname = \"drawn\"\nurl = \"{}\"\n\n[[webhook]]\nname = \"given\"\nurl = \
         \"{}\"\nsecret_env = \"OPS_HOOK\"\n",
        parse::DEFAULT,
        receiver.url("/drawn"),
        receiver.url("/given")
    );
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("tidelock.toml"), config).unwrap();
    let mut command = cli_with(&["serve", "--listen", "127.0.0.1:0"], &data);
    command.env("OPS_HOOK", SECRET);
    let server = Server::run(command, &data);
    let drawn = std::fs::read_to_string(data.join("webhooks/drawn.secret")).unwrap();
    act(&server, "one");
    receiver.until_heard(2);
    for heard in receiver.heard() {
        let is_drawn = heard.head.starts_with("POST /drawn ");
        heard.verify(if is_drawn { drawn.trim() } else { SECRET });
    }
    let changed = std::fs::read_to_string(data.join("tidelock.toml")).unwrap();
    let changed = changed.replace("/given", "/elsewhere");
    std::fs::write(data.join("tidelock.toml"), changed).unwrap();
    let reload = server.cli(&["policy", "reload"]);
    assert!(!reload.status.success() && stderr(&reload).contains("restart"), "{}", stderr(&reload));
    server.stop();
}

#[test]
fn a_receiver_over_tls_is_told_if_the_machine_trusts_it() {
    let (folder, data) = folder();
    let (receiver, authority) = Receiver::start_tls(|_, _| Says::Status(200));
    let trusted = folder.path().join("authority.pem");
    std::fs::write(&trusted, authority).unwrap();
    let url = receiver.url("/").replace("127.0.0.1", "localhost");
    assert!(url.starts_with("https://"));
    configure(&data, &[("ops", &url, "kinds = [\"operator\"]")]);
    let start = |trusted: &Path| {
        let mut command: Command = cli_with(&["serve", "--listen", "127.0.0.1:0"], &data);
        command.env("SSL_CERT_FILE", trusted).env_remove("SSL_CERT_DIR");
        Server::run(command, &data)
    };
    // Somebody else's.
    let other = folder.path().join("other.pem");
    std::fs::write(&other, Receiver::authority()).unwrap();
    let server = start(&other);
    act(&server, "one");
    let shown = until(&server, "ops", "it was tried", |hook| hook["failed"] != 0);
    let why = shown["last_answer"]["answer"].as_str().unwrap();
    assert!(why.contains("ertificate"), "{why}");
    assert!(receiver.heard().is_empty());
    server.kill();
    let server = start(&trusted);
    receiver.until_heard(1);
    receiver.heard()[0].verify(SECRET);
    assert_eq!(reasons(&receiver.heard()), ["one"]);
    server.stop();
}
