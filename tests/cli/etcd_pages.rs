//! Something that speaks like an etcd and always says that there is more.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::house::clean::House;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field of protobuf that has a length.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![tag << 3 | 2];
    let mut length = bytes.len();
    while length >= 128 {
        out.push((length & 127) as u8 | 128);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend(bytes);
    out
}

/// Answers every question for keys from `page`, which is handed the first key that was asked for.
fn serve(mut stream: TcpStream, page: fn(&[u8]) -> Vec<u8>) -> std::io::Result<()> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface)?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[]))?;
    stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()))?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        match (head[3], head[4]) {
            (SETTINGS, flags) if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
            (PING, flags) if flags & ACK == 0 => stream.write_all(&frame(PING, ACK, 0, &payload))?,
            (DATA, _) if length > 7 => {
                let key = &payload[7..7 + usize::from(payload[6])];
                let message = page(key);
                // Status 200, and the type of the content.
                let headers = [&[0x88, 0x0f, 0x10, 16], b"application/grpc".as_slice()].concat();
                let trailers = [&[0, 11], b"grpc-status".as_slice(), &[1, b'0']].concat();
                let body = [&[0], (message.len() as u32).to_be_bytes().as_slice(), &message].concat();
                stream.write_all(&frame(HEADERS, END_HEADERS, id, &headers))?;
                for piece in body.chunks(16_000) {
                    stream.write_all(&frame(DATA, 0, id, piece))?;
                }
                stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &trailers))?;
            }
            _ => {}
        }
    }
}

/// Cluster 1, member 1, revision 5; these keys; and more.
fn answer(key: &[u8], value: &[u8]) -> Vec<u8> {
    let row = [field(1, key), vec![0x10, 5, 0x18, 5, 0x20, 1], field(5, value)].concat();
    [field(1, &[8, 1, 0x10, 1, 0x18, 5]), field(2, &row), vec![0x18, 1]].concat()
}

fn fake(page: fn(&[u8]) -> Vec<u8>) -> House {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let house = House::at(&format!("etcd://{}", listener.local_addr().expect("an address")));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream, page));
        }
    });
    house
}

#[test]
fn pages_that_do_not_go_on_are_an_error() {
    let house = fake(|_| answer(b"somewhere/else", b""));
    let said = house.dflock(&["stats"]).code(76);
    assert!(said.out.contains("keys that it was not asked for"), "{said:?}");
}

#[test]
fn pages_without_end_come_to_one() {
    let house = fake(|first| {
        // What was asked for is what lies behind the last one; the next one has another number.
        let (start, number) = match first {
            [start @ .., 0] => start.split_at(start.len() - 8),
            start => (start, b"00000000".as_slice()),
        };
        let number: u32 = String::from_utf8_lossy(number).parse().expect("a number");
        answer(&[start, format!("{:08}", number + 1).as_bytes()].concat(), &vec![b'v'; 1024 * 1024])
    });
    let said = house.dflock(&["stats"]).code(76);
    assert!(said.out.contains("more than 128 MiB of keys"), "{:?}", said.out.chars().take(1000).collect::<String>());
}

/// What is read takes many times its size in memory, so nobody is let send more than was asked for.
#[test]
fn an_answer_that_is_too_large_is_an_error() {
    let house = fake(|_| answer(b"k", &vec![b'v'; 5 * 1024 * 1024]));
    let said = house.dflock(&["stats"]).code(76);
    assert!(said.out.contains("larger") || said.out.contains("large"), "{said:?}");
    let said = house.dflock(&["exec", "-n", "k", "true"]);
    assert!([69, 76].contains(&said.code), "{said:?}");
}
