//! Clients.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backend::CHUNK;

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads endless streams, and optionally writes to them.
pub fn bulk(address: SocketAddr, streams: usize, both: bool, time: Duration) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let (read, written) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let began = Instant::now();
    let mut threads = Vec::new();
    for _ in 0..streams {
        let mut stream = connect(address)?;
        stream.write_all(&0_u64.to_be_bytes())?;
        let mut writer = stream.try_clone()?;
        let (stopped, total) = (Arc::clone(&stop), Arc::clone(&read));
        threads.push(thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            while !stopped.load(Ordering::Relaxed) {
                match stream.read(&mut buffer) {
                    Ok(n) if n > 0 => total.fetch_add(n as u64, Ordering::Relaxed),
                    _ => break,
                };
            }
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }));
        if both {
            let (stopped, total) = (Arc::clone(&stop), Arc::clone(&written));
            threads.push(thread::spawn(move || {
                let chunk = vec![b'y'; CHUNK];
                while !stopped.load(Ordering::Relaxed) && writer.write_all(&chunk).is_ok() {
                    total.fetch_add(CHUNK as u64, Ordering::Relaxed);
                }
            }));
        }
    }
    thread::sleep(time);
    let seconds = began.elapsed().as_secs_f64();
    let (read, written) = (read.load(Ordering::Relaxed), written.load(Ordering::Relaxed));
    println!("{}", json!({"bytes": read + written, "read": read, "written": written, "seconds": seconds}));
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn percentile(sorted: &[u64], share: f64) -> f64 {
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1;
    sorted[index] as f64 / 1e3
}

/// Exchanges one byte each way repeatedly.
pub fn ping(address: SocketAddr, time: Duration) -> io::Result<()> {
    let mut stream = connect(address)?;
    let mut nanos = Vec::with_capacity(1 << 20);
    let mut byte = [0];
    let began = Instant::now();
    while began.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&[1])?;
        stream.read_exact(&mut byte)?;
        nanos.push(sent.elapsed().as_nanos() as u64);
    }
    nanos.sort_unstable();
    let us = |share| percentile(&nanos, share);
    println!(
        "{}",
        json!({"exchanges": nanos.len(), "p50_us": us(0.5), "p90_us": us(0.9), "p99_us": us(0.99)})
    );
    Ok(())
}

/// Opens connections, uses each once, and holds them.
pub fn idle(address: SocketAddr, connections: usize) -> io::Result<()> {
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = connect(address)?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        held.push(stream);
    }
    println!("{}", json!({"connections": held.len()}));
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Opens a new connection for each transfer of this many bytes.
pub fn transfers(address: SocketAddr, bytes: u64, streams: usize, time: Duration) -> io::Result<()> {
    let began = Instant::now();
    let one = move || -> io::Result<()> {
        let mut stream = connect(address)?;
        stream.write_all(&bytes.to_be_bytes())?;
        let mut buffer = vec![0; CHUNK.min(usize::try_from(bytes).unwrap_or(CHUNK))];
        let mut left = bytes;
        while left > 0 {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= n as u64;
        }
        Ok(())
    };
    let client = move || {
        let (mut done, mut failed) = (0_u64, 0_u64);
        // At least one, even after the deadline.
        while done + failed == 0 || began.elapsed() < time {
            if one().is_ok() { done += 1 } else { failed += 1 }
        }
        (done, failed)
    };
    let threads: Vec<_> = (0..streams).map(|_| thread::spawn(client)).collect();
    let (mut done, mut failed) = (0, 0);
    for thread in threads {
        let (good, bad) = thread.join().map_err(|_| io::Error::other("a client panicked"))?;
        done += good;
        failed += bad;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{}", json!({"transfers": done, "failed": failed, "bytes": done * bytes, "seconds": seconds}));
    Ok(())
}
