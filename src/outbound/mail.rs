//! E-mail by SMTP.

use std::time::Duration;

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::{AsyncTransport as _, Tokio1Executor};

use crate::crypto::secret::Secret;

const PATIENCE: Duration = Duration::from_secs(10);

/// Why the settings make no mailer. Repeats none of them: the URL may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailSetupError {
    #[error("it is not of the form smtps://USER:PASSWORD@HOST:PORT")]
    Url,
    #[error("the sender is not an e-mail address")]
    Sender,
}

/// Why a letter did not leave, in words that hold no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailFailure {
    /// The mail server said no, and will again.
    pub for_good: bool,
    pub text: String,
}

/// The operator's mail server.
#[derive(Clone)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    /// `smtps://` speaks TLS from the first byte; `smtp://` with `?tls=required` upgrades to it, and
    /// alone speaks plain text.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(url: &Secret, from: &str, name: &str) -> Result<Self, MailSetupError> {
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose());
        let transport = builder.map_err(|_| MailSetupError::Url)?.timeout(Some(PATIENCE)).build();
        let address = from.trim().parse().map_err(|_| MailSetupError::Sender)?;
        Ok(Self { transport, from: Mailbox::new(Some(name.to_owned()), address) })
    }

    /// Whether the mail server takes a connection, and the password if there is one.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn reach(&self) -> Result<(), MailFailure> {
        match tokio::time::timeout(PATIENCE * 2, self.transport.test_connection()).await {
            Err(_) => Err(late()),
            Ok(Err(error)) => Err(failure(&error)),
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(MailFailure { for_good: false, text: "The mail server hung up".to_owned() }),
        }
    }

    /// Sends a letter of plain text.
    ///
    /// # Errors
    /// Why it did not leave.
    pub async fn send(&self, to: &str, id: &str, subject: &str, text: &str) -> Result<(), MailFailure> {
        let letter = self.letter(to, id, subject, text)?;
        // The transport's own limit is for the connection alone.
        match tokio::time::timeout(PATIENCE * 2, self.transport.send(letter)).await {
            Err(_) => Err(late()),
            Ok(Err(error)) => Err(failure(&error)),
            Ok(Ok(_)) => Ok(()),
        }
    }

    fn letter(&self, to: &str, id: &str, subject: &str, text: &str) -> Result<Message, MailFailure> {
        let refused = |text: &str| MailFailure { for_good: true, text: text.to_owned() };
        let to = to.parse().map_err(|_| refused("No address"))?;
        // No holiday notice is wanted in answer.
        let automatic = HeaderName::new_from_ascii_str("Auto-Submitted");
        Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to))
            .subject(subject)
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .raw_header(HeaderValue::new(automatic, "auto-generated".to_owned()))
            .header(ContentType::TEXT_PLAIN)
            .body(text.to_owned())
            .map_err(|_| refused("The letter could not be written"))
    }
}

fn late() -> MailFailure {
    MailFailure { for_good: false, text: "The mail server did not answer in time".to_owned() }
}

fn failure(error: &lettre::transport::smtp::Error) -> MailFailure {
    if error.is_timeout() {
        return late();
    }
    let code = error.status().map(u16::from);
    MailFailure {
        // What is wrong with the mailbox, and not with the sender or its password.
        for_good: matches!(code, Some(550 | 551 | 553)),
        text: code
            .map_or_else(|| "The mail server could not be reached".to_owned(), |code| format!("SMTP {code}")),
    }
}
