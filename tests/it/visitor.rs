//! A browser without a screen: keeps cookies, finds form tokens, follows nothing by itself.

use std::collections::BTreeMap;

use reqwest::{Client, Method, StatusCode};

pub struct Visitor {
    http: Client,
    base: String,
    cookies: BTreeMap<String, String>,
    /// The token of the last page that had a form.
    pub csrf: String,
}

pub struct Page {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Page {
    pub fn location(&self) -> &str {
        self.headers.get("location").map_or("", |value| value.to_str().unwrap())
    }

    /// The page's text holds this sentence, as a person reads it.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        let plain = self.body.replace("&#39;", "'").replace("&amp;", "&").replace("&#38;", "&");
        assert!(plain.contains(text), "{} does not say {text:?}:\n{plain}", self.status);
        self
    }
}

impl Visitor {
    pub fn new(base: &str) -> Self {
        let http = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { http, base: base.to_owned(), cookies: BTreeMap::new(), csrf: String::new() }
    }

    pub async fn signed_in(base: &str, email: &str, password: &str) -> Self {
        let mut visitor = Self::new(base);
        visitor.get("/sign-in").await;
        let page = visitor.post("/sign-in", &[("email", email), ("password", password)]).await;
        assert_eq!(page.status, 303, "{}", page.body);
        visitor.get("/account").await;
        visitor
    }

    pub async fn get(&mut self, path: &str) -> Page {
        self.send(Method::GET, path, None, &[]).await
    }

    /// Posts a form with the token of the last page.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let token = self.csrf.clone();
        let mut fields = fields.to_vec();
        fields.push(("csrf", &token));
        self.post_exactly(path, &fields, &[]).await
    }

    /// Posts these fields and no others.
    pub async fn post_exactly(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Page {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send(Method::POST, path, Some(body), headers).await
    }

    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        form: Option<String>,
        headers: &[(&str, &str)],
    ) -> Page {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if !self.cookies.is_empty() {
            let cookies: Vec<String> =
                self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header("cookie", cookies.join("; "));
        }
        if let Some(form) = form {
            request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        for cookie in answer.headers().get_all("set-cookie") {
            let cookie = cookie.to_str().unwrap();
            let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
            let (name, value) = pair.split_once('=').unwrap();
            if attributes.contains("Max-Age=0") || value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.text().await.unwrap();
        if let Some(token) = body.split("name=\"csrf\" value=\"").nth(1) {
            token.split('"').next().unwrap().clone_into(&mut self.csrf);
        }
        Page { status, headers, body }
    }

    pub fn cookie(&self, name: &str) -> Option<&String> {
        self.cookies.get(name)
    }

    pub fn set_cookie(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }
}
