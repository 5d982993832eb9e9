//! What dflock's own processes say to each other: commands to holders, and dflock to its guardian.

use dflock::exec::guard::message::Message;
use dflock::holder::control::{self, Reply, Request};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::harness::{Target, fuzz};
use crate::mutate::{self, mutate};
use crate::random::Random;

const MESSAGES: [&str; 17] = [
    r#""Status""#,
    r#"{"Release":{"token":null}}"#,
    r#"{"Release":{"token":"0123"}}"#,
    r#"{"Renew":{"token":null,"lease":{"secs":5,"nanos":0}}}"#,
    r#"{"Wait":{"token":"x","timeout":{"secs":18446744073709551615,"nanos":999999999}}}"#,
    r#"{"Released":{"server":"a:1"}}"#,
    r#"{"Granted":{"pid":1,"server":"a:1","grant":{"token":"t","fence":7,"lease":{"secs":5,"nanos":0}}}}"#,
    r#""NotMine""#,
    r#"{"Failed":{"kind":"Busy","message":"m","hint":null,"key":null,"server":null}}"#,
    r#"{"Status":{"pid":1,"key":[107],"kind":"Lock","server":"a:1","state":"Held","owner":null,"two_phase":false,"owner_name":null,"held_for":null,"lease_left":null,"max_hold_left":null,"held":null}}"#,
    r#"{"Group":4711}"#,
    r#"{"KillAt":123456789}"#,
    r#"{"Lock":{"key":[107],"space":"Locks","token":"0123"}}"#,
    r#"{"HandedOver":{"key":[107],"space":"Semaphores","token":"0123"}}"#,
    r#"{"HeldUntil":123456789}"#,
    r#""Ended""#,
    r#""Farewell""#,
];

const WORDS: [&[u8]; 16] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"null",
    b"\n",
    b"-1",
    b"1e999",
    b"0.5",
    b":",
    b",",
    b"\\ud800",
    b"\xff",
    b"\"nanos\":4294967295",
    b"\"token\":\"a\\nb\"",
];

fn make_message(random: &mut Random) -> Vec<u8> {
    let mut bytes = match random.below(30) {
        0 => {
            // Around the longest line.
            let padding = vec![*random.pick(b"   [{\"9"); 64 * 1024 - 1000 + random.below(2000) as usize];
            [padding.as_slice(), random.pick(&MESSAGES).as_bytes()].concat()
        }
        1..4 => mutate::bytes(random, 60),
        _ => random.pick(&MESSAGES).as_bytes().to_vec(),
    };
    if random.chance(70) {
        mutate(random, &mut bytes, &WORDS);
    }
    if random.chance(80) {
        bytes.push(b'\n');
    }
    bytes
}

#[test]
fn messages_of_holders() {
    let memory = |length| 512 * 1024 + 256 * length;
    fuzz(&Target { name: "control", inputs: 5_000, make: make_message, check: check_control, memory });
}

fn check_control(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if let Some(request) = hear::<Request>(input).await {
            match &request {
                Request::Release { token } | Request::Renew { token, .. } | Request::Wait { token, .. } => {
                    let is_line = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
                    assert!(token.as_ref().is_none_or(|token| is_line(token.as_str())), "a token of two lines");
                }
                Request::Status => {}
            }
            again(&request).await;
        }
        if let Some(reply) = hear::<Reply>(input).await {
            again(&reply).await;
        }
    });
}

/// Whatever was heard is said and heard again.
async fn again<T: serde::Serialize + for<'a> serde::Deserialize<'a>>(message: &T) {
    let json = serde_json::to_value(message).expect("it is JSON");
    let mut line = serde_json::to_vec(message).expect("it is JSON");
    line.push(b'\n');
    // A name of many bytes that are no UTF-8 is longer when it is said again.
    if line.len() < 64 * 1024 {
        let heard = hear::<T>(&line).await.expect("it is heard again");
        assert_eq!(serde_json::to_value(&heard).expect("it is JSON"), json);
    }
}

/// What is heard of it, which is nothing if the line is too long.
async fn hear<T: for<'a> serde::Deserialize<'a>>(input: &[u8]) -> Option<T> {
    let (mut ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    let saying = async {
        // Who has heard enough closes.
        let _ = ours.write_all(input).await;
        drop(ours);
    };
    let hearing = async {
        let heard = control::receive::<T>(&mut theirs).await;
        drop(theirs);
        heard
    };
    let heard = tokio::join!(saying, hearing).1.ok().flatten();
    let is_short = input.iter().take(64 * 1024).any(|byte| *byte == b'\n') || input.len() <= 64 * 1024;
    assert!(heard.is_none() || is_short, "a line without limit");
    heard
}

/// The guardian takes nothing for a message that would have it kill more than one group.
#[test]
fn messages_of_guardians() {
    let memory = |length| 64 * 1024 + 256 * length;
    fuzz(&Target { name: "guardian", inputs: 10_000, make: make_message, check: check_guardian, memory });
}

fn check_guardian(input: &[u8]) {
    let Ok(message) = Message::read(input) else { return };
    let written = message.write().expect("it is written");
    let again = Message::read(&written).expect("it is read again");
    assert_eq!(again.write().expect("it is written"), written);
    match message {
        Message::Group(leader) => assert!(leader > 1, "group {leader}"),
        Message::Leader(leader) => assert!(leader.pid > 1, "leader {leader:?}"),
        Message::Kin(kin) => assert!(kin.leader.is_none_or(|leader| leader.pid > 1), "a leader who is everybody"),
        Message::Lock(lock) | Message::Reconnected(lock) | Message::HandedOver(lock) => {
            assert!(dflock::lock::Key::new(lock.key.as_bytes()).is_ok());
            assert!(dflock::lock::Token::new(lock.token.as_str()).is_ok());
        }
        Message::KillAt(_)
        | Message::HeldUntil(_)
        | Message::Owner(_)
        | Message::Killed(_)
        | Message::Heard(_)
        | Message::Ask
        | Message::Ended
        | Message::Farewell => {}
    }
}
