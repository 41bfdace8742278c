//! Backends.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The block size of bulk transfers.
pub const CHUNK: usize = 256 * 1024;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Small HTTP answers, on one thread.
pub fn http(addresses: &[SocketAddr]) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        for address in addresses {
            let listener = listen(*address)?;
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::spawn(async move {
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        tokio::spawn(answer(stream));
                    }
                }
            });
        }
        std::future::pending().await
    })
}

async fn answer(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    const KEEP: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, world\n";
    const CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\nHello, world\n";
    let mut buffer = [0; 4096];
    let mut filled = 0;
    loop {
        let n = stream.read(&mut buffer[filled..]).await?;
        if n == 0 {
            return Ok(());
        }
        filled += n;
        if buffer[..filled].ends_with(b"\r\n\r\n") {
            let close =
                buffer[..filled].windows(17).any(|part| part.eq_ignore_ascii_case(b"connection: close"));
            if close {
                return stream.write_all(CLOSE).await;
            }
            stream.write_all(KEEP).await?;
            filled = 0;
        } else if filled == buffer.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// A request of eight bytes has the number of bytes wanted; 0: endless. Other input is discarded.
pub fn source(address: SocketAddr) -> io::Result<()> {
    for stream in listen(address)?.incoming() {
        let stream = stream?;
        thread::spawn(move || -> io::Result<()> {
            let mut wanted = [0; 8];
            (&stream).read_exact(&mut wanted)?;
            let wanted = u64::from_be_bytes(wanted);
            let reader = stream.try_clone()?;
            thread::spawn(move || drain(&reader));
            send(&stream, if wanted == 0 { u64::MAX } else { wanted })
        });
    }
    Ok(())
}

/// Reads to the end; returns the number of bytes.
pub fn drain(mut stream: &TcpStream) -> u64 {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    while let Ok(n) = stream.read(&mut buffer)
        && n > 0
    {
        total += n as u64;
    }
    total
}

/// Writes this many bytes.
pub fn send(mut stream: &TcpStream, mut left: u64) -> io::Result<()> {
    let chunk = vec![b'x'; CHUNK];
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..n])?;
        left -= n as u64;
    }
    Ok(())
}

/// Echoes all bytes, on one thread.
pub fn echo(address: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = listen(address)?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                let mut buffer = [0; 512];
                while let Ok(n) = stream.read(&mut buffer).await
                    && n > 0
                    && stream.write_all(&buffer[..n]).await.is_ok()
                {}
            });
        }
    })
}
