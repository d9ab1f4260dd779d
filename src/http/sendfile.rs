//! Files that go from the kernel's memory to a client without a copy here: sendfile(2), below plain HTTP/1.1.
//!
//! hyper writes bodies that it can see. So it is given a *stand-in* for a file: bytes of a constant, as many as the file
//! has, of which only the address matters. Where the connection comes upon that address, it has the kernel send the file
//! instead. Stand-ins and files are in the same order on a connection, and each must be as long as its file: else the
//! connection ends with an error instead of sending anything.
//!
//! - Only for the body of an answer that is polled on its connection's own task. TLS, and the streams of HTTP/2, have
//!   tasks of their own or no [`Wire`]; they, and whoever else wants to see bytes, read them.
//! - Only for files of a middling size: below, one write with the head costs less; above, large blocks that are in the
//!   processor's cache when they are sent are faster.
//! - Only what the kernel has in memory, for a file that comes from the disk would hold up everybody on the thread.

#[cfg(target_os = "linux")]
pub(super) use linux::{around, body};
#[cfg(not(target_os = "linux"))]
pub(super) use nothing::{around, body};

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        collections::VecDeque,
        fs::File,
        future::Future,
        io::{self, IoSlice},
        ops::Range,
        pin::Pin,
        sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
        task::{Context, Poll, ready},
    };

    use bytes::Bytes;
    use futures_util::Stream;
    use rustix::net::SendFlags;
    use tokio::{
        io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
        net::TcpStream,
    };

    use crate::storage::is_in_memory;

    /// How many bytes are sent like this at least, and at most.
    const SIZES: Range<u64> = 64 * 1024..MOST as u64 + 1;
    const MOST: usize = 1024 * 1024;

    /// What stands in for files. Fresh memory that nobody looks at is none.
    static STAND_IN: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; MOST]);

    tokio::task_local! {
        /// The files that the connection of the current task is to send.
        static FILES: Files;
    }

    /// Files, in the order in which they are to be sent.
    #[derive(Clone, Default)]
    struct Files(Arc<Mutex<VecDeque<Part>>>);

    struct Part {
        file: Arc<File>,
        range: Range<u64>,
    }

    impl Files {
        fn held(&self) -> MutexGuard<'_, VecDeque<Part>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// The body of an answer: part of a file, to be sent by the kernel. `None` where that cannot be, or would not pay.
    pub(in crate::http) fn body(
        file: &Arc<File>,
        range: &Range<u64>,
    ) -> Option<impl Stream<Item = io::Result<Bytes>> + use<>> {
        let length = range.end.checked_sub(range.start).filter(|length| SIZES.contains(length))?;
        let length = usize::try_from(length).ok()?;
        let files = FILES.try_with(Files::clone).ok().filter(|_| is_in_memory(file, range))?;
        let part = Part { file: Arc::clone(file), range: range.clone() };
        // Not before it is asked for: what is asked for is what is written next.
        Some(futures_util::stream::once(async move {
            files.held().push_back(part);
            Ok(Bytes::from_static(&STAND_IN[..length]))
        }))
    }

    /// A connection that can send files.
    pub(in crate::http) struct Wire {
        stream: TcpStream,
        files: Files,
    }

    /// Has a connection served, so that files can be sent on it.
    pub(in crate::http) async fn around<F: Future>(
        stream: TcpStream,
        serve: impl FnOnce(Wire) -> F,
    ) -> F::Output {
        let files = Files::default();
        FILES.scope(files.clone(), serve(Wire { stream, files })).await
    }

    impl Wire {
        /// Sends of the first file what the socket takes, and says how much that was.
        fn poll_send_file(&self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
            let mut files = self.files.held();
            let Some(part) = files.front_mut() else { return Poll::Ready(Err(out_of_step())) };
            if part.range.end - part.range.start != length as u64 {
                return Poll::Ready(Err(out_of_step()));
            }
            let sent = ready!(self.poll_io(cx, || {
                let mut offset = part.range.start;
                Ok(rustix::fs::sendfile(&self.stream, &part.file, Some(&mut offset), length)?)
            }))?;
            if sent == 0 {
                let shorter = "the file became shorter while it was sent";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, shorter)));
            }
            part.range.start += sent as u64;
            if part.range.is_empty() {
                files.pop_front();
            }
            Poll::Ready(Ok(sent))
        }

        /// Makes a call that writes, once the socket takes something.
        fn poll_io(
            &self,
            cx: &mut Context<'_>,
            mut call: impl FnMut() -> io::Result<usize>,
        ) -> Poll<io::Result<usize>> {
            loop {
                ready!(self.stream.poll_write_ready(cx))?;
                match self.stream.try_io(Interest::WRITABLE, &mut call) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    done => return Poll::Ready(done),
                }
            }
        }
    }

    /// hyper wrote something else than what it was given: nothing that follows can be trusted.
    fn out_of_step() -> io::Error {
        io::Error::other("what stands in for a file is not what is written")
    }

    fn stands_in(bytes: &[u8]) -> bool {
        !bytes.is_empty() && STAND_IN.as_ptr_range().contains(&bytes.as_ptr())
    }

    impl AsyncRead for Wire {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, into)
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            match bytes.iter().position(|bytes| stands_in(bytes)) {
                None => Pin::new(&mut self.stream).poll_write_vectored(cx, bytes),
                Some(0) => self.poll_send_file(cx, bytes[0].len()),
                // With the file behind it: a head alone would be a packet of its own.
                Some(_) => {
                    self.poll_io(cx, || Ok(rustix::net::send(&self.stream, &bytes[0], SendFlags::MORE)?))
                }
            }
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    #[cfg(test)]
    mod tests;
}

#[cfg(not(target_os = "linux"))]
mod nothing {
    use std::{fs::File, io, ops::Range, sync::Arc};

    use bytes::Bytes;
    use futures_util::stream::Empty;
    use tokio::net::TcpStream;

    /// Other systems are for development: files are read.
    pub(in crate::http) fn body(_: &Arc<File>, _: &Range<u64>) -> Option<Empty<io::Result<Bytes>>> {
        None
    }

    pub(in crate::http) async fn around<F: Future>(
        stream: TcpStream,
        serve: impl FnOnce(TcpStream) -> F,
    ) -> F::Output {
        serve(stream).await
    }
}
