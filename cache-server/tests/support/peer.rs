//! A client that does as it is told, also what it should not.

use std::net::SocketAddr;

use bytes::BytesMut;
use quinn::{Connection, ConnectionError, Endpoint, ReadExactError, RecvStream, SendStream};
use rampool_protocol::block::{PutEntry, RemoteKey, SealedBlock};
use rampool_protocol::certs::SERVER_NAME;
use rampool_protocol::control::{self, Lending, MountId, ToClient, ToServer, VERSION};
use rampool_protocol::endpoint;
use rampool_protocol::frame::{self, HEADER_SIZE, Header, PutOutcome, RequestId};
use zerocopy::IntoBytes as _;

/// A connection after its hello.
pub struct Peer {
    pub connection: Connection,
    pub control: (SendStream, RecvStream),
    pub lending: Lending,
    pub instance: u64,
    _endpoint: Endpoint,
}

/// A data stream.
pub struct Data {
    pub send: SendStream,
    pub recv: RecvStream,
    requests: u64,
}

/// Connects, without a hello.
pub async fn connect(
    server: SocketAddr,
    config: quinn::ClientConfig,
) -> Result<(Endpoint, Connection), ConnectionError> {
    let socket = endpoint::bind(([127, 0, 0, 1], 0).into()).expect("a socket").socket;
    let runtime = std::sync::Arc::new(quinn::TokioRuntime);
    let endpoint =
        Endpoint::new(endpoint::endpoint_config(), None, socket, runtime).expect("an endpoint");
    let connecting = endpoint.connect_with(config, server, SERVER_NAME).expect("a good config");
    let connection = connecting.await?;
    Ok((endpoint, connection))
}

/// Connects, says one thing and hears the answer.
pub async fn ask(
    server: SocketAddr,
    config: quinn::ClientConfig,
    question: ToServer,
) -> Result<ToClient, ConnectionError> {
    let (_endpoint, connection) = connect(server, config).await?;
    match say(&connection, question).await? {
        (_, Some(answer)) => Ok(answer),
        (_, None) => Err(connection.closed().await),
    }
}

/// Says the first thing. What is wrong with it shows when the answer is read.
async fn say(
    connection: &Connection,
    first: ToServer,
) -> Result<((SendStream, RecvStream), Option<ToClient>), ConnectionError> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let _ = send.write_all(&control::encode(&first)).await;
    let answer = message(&mut recv).await;
    Ok(((send, recv), answer))
}

impl Peer {
    pub async fn join(
        server: SocketAddr,
        config: quinn::ClientConfig,
        mount: MountId,
    ) -> Result<Self, ConnectionError> {
        Self::hello(server, config, ToServer::Hello { version: VERSION, mount, keep_seconds: 0 })
            .await
    }

    pub async fn hello(
        server: SocketAddr,
        config: quinn::ClientConfig,
        hello: ToServer,
    ) -> Result<Self, ConnectionError> {
        let (endpoint, connection) = connect(server, config).await?;
        let (control, answer) = say(&connection, hello).await?;
        let Some(ToClient::Welcome { version: VERSION, instance, lending }) = answer else {
            return Err(connection.closed().await);
        };
        Ok(Self { connection, control, lending, instance, _endpoint: endpoint })
    }

    /// The next thing that the server says on its own.
    pub async fn told(&mut self) -> Option<ToClient> {
        message(&mut self.control.1).await
    }

    pub async fn data(&self) -> Data {
        let (send, recv) = self.connection.open_bi().await.expect("a stream");
        Data { send, recv, requests: 0 }
    }

    /// The code and the reason with which the server closes the connection.
    pub async fn closed(&self) -> (u64, String) {
        close_reason(self.connection.closed().await)
    }
}

pub fn close_reason(error: ConnectionError) -> (u64, String) {
    let ConnectionError::ApplicationClosed(closed) = error else { panic!("not closed: {error}") };
    (closed.error_code.into_inner(), String::from_utf8_lossy(&closed.reason).into_owned())
}

async fn message(recv: &mut RecvStream) -> Option<ToClient> {
    let mut length = [0; 4];
    recv.read_exact(&mut length).await.ok()?;
    let mut body = vec![0; control::parse_length(length).expect("a short message")];
    recv.read_exact(&mut body).await.ok()?;
    Some(control::decode(&body).expect("a message"))
}

impl Data {
    pub async fn put(&mut self, entries: &[PutEntry]) -> Vec<PutOutcome> {
        let request = self.ask_put(entries).await;
        let (header, body) = self.answer().await.expect("an answer");
        assert_eq!(header, Header::stored(request, entries.len()));
        let (outcomes, _) = frame::stored_body(header, &body).expect("a Stored");
        outcomes.iter().map(|&byte| PutOutcome::from_byte(byte)).collect()
    }

    pub async fn get(&mut self, keys: &[RemoteKey]) -> Vec<Option<SealedBlock>> {
        let request = self.ask_get(keys).await;
        let (header, body) = self.answer().await.expect("an answer");
        assert_eq!((header.request, header.count), (request, keys.len()));
        frame::got_body(header, &body).expect("a Got").map(Option::<&_>::cloned).collect()
    }

    pub async fn ask_put(&mut self, entries: &[PutEntry]) -> RequestId {
        let request = self.next_request();
        let mut bytes = BytesMut::from(&Header::put(request, entries.len()).to_bytes()[..]);
        bytes.extend_from_slice(entries.as_bytes());
        self.send.write_all(&bytes).await.expect("sent");
        request
    }

    pub async fn ask_get(&mut self, keys: &[RemoteKey]) -> RequestId {
        let request = self.next_request();
        let mut bytes = BytesMut::from(&Header::get(request, keys.len()).to_bytes()[..]);
        bytes.extend_from_slice(keys.as_bytes());
        self.send.write_all(&bytes).await.expect("sent");
        request
    }

    pub async fn answer(&mut self) -> Result<(Header, Vec<u8>), ReadExactError> {
        let mut header = [0; HEADER_SIZE];
        self.recv.read_exact(&mut header).await?;
        let header = Header::parse(&header).expect("a good header");
        let mut body = vec![0; header.body_len];
        self.recv.read_exact(&mut body).await?;
        Ok((header, body))
    }

    fn next_request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }
}
