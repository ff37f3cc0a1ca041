//! Just enough of HTTP/1.1 to load a server without being the bottleneck: sends a request that is
//! ready to go and reads the answer's status, framing and length, nothing else.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const BUFFER: usize = 64 * 1_024;

/// A kept-alive connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What has arrived and is not yet looked at.
    unread: std::ops::Range<usize>,
}

/// What is known of an answer when its last byte has arrived.
pub struct Answer {
    pub status: u16,
    /// Length of the body, without the framing of chunks.
    pub bytes: u64,
    pub first_byte: Instant,
}

enum Framing {
    Length(u64),
    Chunked,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER], unread: 0..0 })
    }

    /// Sends a whole request, as bytes, and reads its answer to the end.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Answer> {
        if !self.unread.is_empty() {
            return Err(broken("bytes after the end of an answer"));
        }
        self.stream.write_all(request).await?;
        self.fill().await?;
        let first_byte = Instant::now();
        let (status, framing) = self.head().await?;
        let bytes = match framing {
            Framing::Length(length) => {
                self.skip(length).await?;
                length
            }
            Framing::Chunked => self.chunks().await?,
        };
        Ok(Answer { status, bytes, first_byte })
    }

    async fn head(&mut self) -> Result<(u16, Framing)> {
        let length = loop {
            if let Some(at) = memchr::memmem::find(&self.buffer[self.unread.clone()], b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let head = &self.buffer[self.unread.start..self.unread.start + length];
        let text = std::str::from_utf8(head).map_err(|_| broken("a head that is not text"))?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
            .ok_or_else(|| broken("no status line"))?;
        let mut framing = Err(broken("neither content-length nor chunks"));
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                framing = value.trim().parse().map(Framing::Length).map_err(|_| broken("bad content-length"));
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Ok(Framing::Chunked);
            } else if name.eq_ignore_ascii_case("connection") && value.trim().eq_ignore_ascii_case("close") {
                return Err(broken("the server closes the connection"));
            }
        }
        let framing = framing?;
        self.unread.start += length;
        Ok((status, framing))
    }

    async fn chunks(&mut self) -> Result<u64> {
        let mut total = 0;
        loop {
            let size = self.chunk_size().await?;
            if size == 0 {
                // No trailers come from what is measured here.
                self.skip(2).await?;
                return Ok(total);
            }
            total += size;
            self.skip(size + 2).await?;
        }
    }

    async fn chunk_size(&mut self) -> Result<u64> {
        loop {
            let unread = &self.buffer[self.unread.clone()];
            if let Some(end) = memchr::memchr(b'\n', unread) {
                let line = unread.get(..end.saturating_sub(1)).unwrap_or_default();
                let text = std::str::from_utf8(line).ok();
                let size = text.and_then(|text| u64::from_str_radix(text, 16).ok());
                self.unread.start += end + 1;
                return size.ok_or_else(|| broken("bad chunk size"));
            }
            self.fill().await?;
        }
    }

    async fn skip(&mut self, mut count: u64) -> Result<()> {
        loop {
            let here = usize::try_from(count).unwrap_or(usize::MAX).min(self.unread.len());
            self.unread.start += here;
            count -= here as u64;
            if count == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Waits for more bytes.
    async fn fill(&mut self) -> Result<()> {
        if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.end == self.buffer.len() {
            if self.unread.start == 0 {
                return Err(broken("a head or chunk size that never ends"));
            }
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        let count = self.stream.read(&mut self.buffer[self.unread.end..]).await?;
        if count == 0 {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the connection was closed"));
        }
        self.unread.end += count;
        Ok(())
    }
}

fn broken(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}
