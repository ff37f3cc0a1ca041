//! Which models providers list: asked once a day on the shared keys, so that a page can say that a model
//! is gone before its requests fail. A tenant's key is never used for it.

use bytes::Bytes;
use http::HeaderMap;

use super::{ServiceError, Services};
use crate::access::scope::Scope;
use crate::domain::clock::{DAY, HOUR, MINUTE};
use crate::domain::ids::Owner;
use crate::domain::price_list::Listed;
use crate::domain::provider_key::{KeyState, Provider};
use crate::domain::usage::Dialect;
use crate::outbound::Trust;
use crate::providers::{self, Credential, Endpoint, Inbound, PathVersion};
use crate::storage::{changes, keys, model_lists};

/// Whose lists name every model that they sell.
const ASKED: [Provider; 3] = [Provider::Anthropic, Provider::Openai, Provider::Google];
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
const MAX_ANSWER: usize = 8 * 1_024 * 1_024;

impl Services {
    /// Asks every provider whose list is a day old and for which there is a shared key.
    ///
    /// # Errors
    /// When the database fails, or a key does not open.
    pub async fn list_models_due(&self) -> Result<(), ServiceError> {
        for provider in ASKED {
            self.list_models(provider).await?;
        }
        Ok(())
    }

    async fn list_models(&self, provider: Provider) -> Result<(), ServiceError> {
        let now = self.clock.now();
        let scope = Scope::of_system(Owner::Platform);
        let mut tx = self.db.read().await?;
        let found = keys::list(&mut tx, &scope).await?.into_iter().find(|sealed| {
            let key = &sealed.key;
            // What stands behind a URL of its own is not the provider's own list.
            key.provider == provider
                && key.is_default
                && key.state_at(now) == KeyState::Valid
                && key.current.custom_url.is_none()
        });
        let Some(found) = found else { return Ok(()) };
        let secret = self.open_current(&mut tx, &scope, &found).await?;
        tx.rollback().await?;
        let mut tx = self.db.write().await?;
        if !model_lists::claim(&mut tx, provider, now, now.plus(10 * MINUTE)).await? {
            return Ok(());
        }
        tx.commit().await?;
        let origins = &self.options.origins;
        let settings = &found.key.current.settings;
        let credential = Credential { secret: &secret, custom_url: None, settings, origins, bearer: None };
        let (dialect, query) = match provider {
            Provider::Anthropic => (Dialect::Anthropic, Some("limit=1000")),
            Provider::Google => (Dialect::Gemini, Some("pageSize=1000")),
            _ => (Dialect::Openai, None),
        };
        let inbound = Inbound {
            endpoint: Endpoint::Models,
            dialect,
            version: if provider == Provider::Google { PathVersion::V1Beta } else { PathVersion::V1 },
            model: String::new(),
            query: query.map(str::to_owned),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let Ok(request) = providers::of(provider).route(inbound, &credential) else { return Ok(()) };
        let asked = async {
            let mut answer = self.outbound.ask(request, Trust::Operator, PATIENCE).await.ok()?;
            let body = tokio::time::timeout(PATIENCE, answer.body(MAX_ANSWER)).await.ok()?.ok()??;
            (answer.status == 200).then(|| providers::listed_models(&body)).flatten()
        };
        let Some(models) = asked.await else {
            tracing::warn!(%provider, "the provider did not list its models; it is asked again in an hour");
            let mut tx = self.db.write().await?;
            model_lists::postpone(&mut tx, provider, now.plus(HOUR)).await?;
            tx.commit().await?;
            return Ok(());
        };
        let listed = Listed { provider, models };
        let mut tx = self.db.write().await?;
        let changed = model_lists::all(&mut tx).await?.iter().all(|known| *known != listed);
        model_lists::put(&mut tx, &listed, now, now.plus(DAY)).await?;
        if changed {
            changes::bump(&mut tx, Owner::Platform, now).await?;
        }
        tx.commit().await?;
        if changed {
            self.directory.forget(Owner::Platform);
        }
        Ok(())
    }
}
