//! What identity providers are asked: their configuration, and codes for tokens. All of it goes out by the
//! guarded client.

use http::HeaderMap;
use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreIdTokenClaims, CoreProviderMetadata};
use openidconnect::{
    AuthorizationCode, ClientId, ClientSecret, CsrfToken, DiscoveryError, HttpRequest, HttpResponse,
    IssuerUrl, Nonce, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope,
    TokenResponse,
};
use url::Url;

use super::{Outbound, SendError, Trust};
use crate::crypto::secret::Secret;
use crate::domain::clock::Moment;
use crate::domain::endpoint::UrlPolicy;
use crate::providers::Outgoing;

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// Configurations, key sets and tokens are a few KiB.
const LIMIT: usize = 512 * 1_024;

/// Why an identity provider is of no use.
#[derive(Debug, thiserror::Error)]
pub enum OpenIdError {
    #[error("its URL is refused by policy: {0}")]
    Url(String),
    #[error(transparent)]
    Send(#[from] SendError),
    #[error("its answer is longer than 512 KiB")]
    TooLong,
    #[error("it answers with {0}")]
    Status(u16),
    #[error("its configuration is not what OpenID Connect has it, or is another issuer's")]
    Configuration,
    #[error("it takes neither the code nor the client's secret")]
    Code,
    #[error("its ID token is missing or not good: signature, audience, nonce or time")]
    Token,
}

/// A client at an identity provider.
pub struct Relying<'a> {
    pub outbound: &'a Outbound,
    pub policy: &'a UrlPolicy,
    pub issuer: &'a str,
    pub client_id: &'a str,
    pub client_secret: &'a Secret,
    pub redirect: &'a str,
}

/// Where the browser goes, and what has to come back from there.
pub struct Departure {
    pub url: Url,
    pub state: String,
    pub nonce: String,
    pub verifier: Secret,
}

/// Whom the provider has vouched for.
#[derive(Debug)]
pub struct Vouched {
    pub subject: String,
    pub email: Option<String>,
    /// The provider says that the address is not known to be theirs.
    pub email_doubtful: bool,
    pub signed_in_at: Option<Moment>,
}

/// Judges a URL of an identity provider, which is given by tenants or by the provider itself.
///
/// # Errors
/// The rule that it breaks.
pub fn judge(policy: &UrlPolicy, url: &str) -> Result<(), OpenIdError> {
    let plain = url.split('?').next().unwrap_or(url);
    policy.identity_provider(plain).map(|_| ()).map_err(|rule| OpenIdError::Url(rule.to_string()))
}

impl Relying<'_> {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, OpenIdError> {
        let (head, body) = request.into_parts();
        let url = head.uri.to_string();
        judge(self.policy, &url)?;
        let trust = Trust::of_identity_provider(&url, self.policy);
        let url = Url::parse(&url).map_err(|_| OpenIdError::Configuration)?;
        let headers: HeaderMap = head.headers;
        let outgoing = Outgoing { method: head.method, url, headers, body: body.into(), hides_usage: false };
        let mut answer = self.outbound.ask(outgoing, trust, PATIENCE).await?;
        let body =
            tokio::time::timeout(PATIENCE, answer.body(LIMIT)).await.map_err(|_| SendError::Timeout)??;
        let body = body.ok_or(OpenIdError::TooLong)?;
        let mut response = HttpResponse::new(body.to_vec());
        *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or_default();
        *response.headers_mut() = answer.headers.clone();
        Ok(response)
    }

    /// Its configuration and keys.
    ///
    /// # Errors
    /// Why they cannot be had.
    pub async fn discover(&self) -> Result<CoreProviderMetadata, OpenIdError> {
        let issuer = IssuerUrl::new(self.issuer.to_owned()).map_err(|_| OpenIdError::Configuration)?;
        let found = CoreProviderMetadata::discover_async(issuer, &|request| self.send(request)).await;
        found.map_err(|error| match error {
            // What it said itself is for nobody's eyes.
            DiscoveryError::Request(error) => error,
            DiscoveryError::Response(status, ..) => OpenIdError::Status(status.as_u16()),
            _ => OpenIdError::Configuration,
        })
    }

    /// Sends somebody there. `anew` has them sign in even if they are.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub async fn depart(&self, hint: Option<&str>, anew: bool) -> Result<Departure, OpenIdError> {
        let metadata = self.discover().await?;
        let client =
            CoreClient::from_provider_metadata(metadata, ClientId::new(self.client_id.to_owned()), None)
                .set_redirect_uri(
                    RedirectUrl::new(self.redirect.to_owned()).map_err(|_| OpenIdError::Configuration)?,
                );
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut asked = client
            .authorize_url(
                CoreAuthenticationFlow::AuthorizationCode,
                CsrfToken::new_random,
                Nonce::new_random,
            )
            .add_scope(Scope::new("email".to_owned()))
            .set_pkce_challenge(challenge);
        if let Some(hint) = hint {
            asked = asked.set_login_hint(openidconnect::LoginHint::new(hint.to_owned()));
        }
        if anew {
            asked = asked
                .set_max_age(std::time::Duration::ZERO)
                .add_prompt(openidconnect::core::CoreAuthPrompt::Login);
        }
        let (url, state, nonce) = asked.url();
        judge(self.policy, url.as_str())?;
        Ok(Departure {
            url,
            state: state.secret().clone(),
            nonce: nonce.secret().clone(),
            verifier: Secret::new(verifier.secret().clone()),
        })
    }

    /// Turns the code that came back into whom it vouches for.
    ///
    /// # Errors
    /// When it vouches for nobody: a wrong code, signature, audience, nonce or time.
    pub async fn redeem(
        &self,
        code: &str,
        nonce: &str,
        verifier: &Secret,
        now: Moment,
    ) -> Result<Vouched, OpenIdError> {
        let metadata = self.discover().await?;
        let secret = ClientSecret::new(self.client_secret.expose().to_owned());
        let client = CoreClient::from_provider_metadata(
            metadata,
            ClientId::new(self.client_id.to_owned()),
            Some(secret),
        )
        .set_redirect_uri(
            RedirectUrl::new(self.redirect.to_owned()).map_err(|_| OpenIdError::Configuration)?,
        );
        let tokens = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|_| OpenIdError::Configuration)?
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose().to_owned()))
            .request_async(&|request| self.send(request))
            .await
            .map_err(|error| match error {
                RequestTokenError::Request(error) => error,
                _ => OpenIdError::Code,
            })?;
        let token = tokens.id_token().ok_or(OpenIdError::Token)?;
        let at = chrono_of(now);
        let judge = client.id_token_verifier().set_time_fn(move || at);
        let nonce = Nonce::new(nonce.to_owned());
        let claims: &CoreIdTokenClaims = token.claims(&judge, &nonce).map_err(|_| OpenIdError::Token)?;
        Ok(Vouched {
            subject: claims.subject().to_string(),
            email: claims.email().map(|email| email.as_str().to_owned()),
            email_doubtful: claims.email_verified() == Some(false),
            signed_in_at: claims.auth_time().map(|at| Moment(at.timestamp_micros())),
        })
    }
}

fn chrono_of(now: Moment) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from_timestamp_micros(now.0).unwrap_or_default()
}
