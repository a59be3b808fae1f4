//! A server that gives the answers it was told to give, one connection each.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    thread,
};

/// Starts a server and returns its address, `http://127.0.0.1:PORT`. Once all answers are given it refuses connections.
pub(super) fn serve(answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                head.extend(byte);
            }
            // A client that has seen enough hangs up, which is not this server's concern.
            let _ = stream.write_all(&answer);
        }
    });
    address
}

/// Starts a server that speaks before it is asked, to one client.
pub(super) fn babble(words: &'static [u8]) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(words);
        // Closing with unread bytes would reset the connection before the words arrive.
        let _ = stream.read(&mut [0; 4096]);
    });
    address
}

/// An answer with a body, whose length is announced.
pub(super) fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let n_bytes = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {n_bytes}\r\nConnection: close\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// An answer whose body is as long as it turns out to be.
pub(super) fn chunked(status: &str, headers: &str, chunks: &[&[u8]]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n{headers}\r\n"
    );
    let mut answer = head.into_bytes();
    for chunk in chunks {
        answer.extend(format!("{:x}\r\n", chunk.len()).bytes());
        answer.extend(*chunk);
        answer.extend(b"\r\n");
    }
    answer.extend(b"0\r\n\r\n");
    answer
}

/// JSON.
pub(super) fn json(text: &str) -> Vec<u8> {
    answer("200 OK", "Content-Type: application/json\r\n", text.as_bytes())
}
