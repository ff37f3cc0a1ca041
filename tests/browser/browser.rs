//! Chromium under its driver, both ended by process id when the test ends.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use thirtyfour::prelude::*;

pub struct Browser {
    pub driver: WebDriver,
    process: Driver,
    base: String,
}

/// The driver's process, which never outlives the test.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a page is looked at with.
#[derive(Clone, Copy)]
pub struct Look {
    pub width: u32,
    pub dark: bool,
    pub scripts: bool,
}

pub const DESKTOP: Look = Look { width: 1280, dark: false, scripts: true };

impl Browser {
    pub async fn open(base: &str, look: Look) -> Self {
        let port = crate::support::free_port().local_addr().unwrap().port();
        let process = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let process = Driver(process);
        let mut capabilities = DesiredCapabilities::chrome();
        for argument in [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ] {
            capabilities.add_arg(argument).unwrap();
        }
        if look.width < 500 {
            // Narrower than a window can be made: the device is emulated.
            let phone = json!({ "deviceMetrics": { "width": look.width, "height": 800, "pixelRatio": 1.0 } });
            capabilities.add_experimental_option("mobileEmulation", phone).unwrap();
        } else {
            capabilities.add_arg(&format!("--window-size={},900", look.width)).unwrap();
        }
        if look.dark {
            capabilities.add_arg("--blink-settings=preferredColorScheme=0").unwrap();
        }
        if !look.scripts {
            let off = json!({ "profile.managed_default_content_settings.javascript": 2 });
            capabilities.add_experimental_option("prefs", off).unwrap();
        }
        let mut driver = None;
        for _ in 0..100 {
            match WebDriver::new(format!("http://127.0.0.1:{port}"), capabilities.clone()).await {
                Ok(ready) => {
                    driver = Some(ready);
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        let driver = driver.expect("Chromium starts");
        if look.scripts {
            let listen = "window.reports = [];
                document.addEventListener('securitypolicyviolation', report =>
                    window.reports.push(report.effectiveDirective + ' ' + report.blockedURI));";
            let tools = driver.cdp();
            let script = json!({ "source": listen });
            tools.send_raw("Page.addScriptToEvaluateOnNewDocument", script).await.unwrap();
        }
        Self { driver, process, base: base.to_owned() }
    }

    pub async fn close(self) {
        let _ = self.driver.clone().quit().await;
        drop(self.process);
    }

    pub async fn go(&self, path: &str) {
        self.driver.goto(format!("{}{path}", self.base)).await.unwrap();
    }

    pub async fn sign_in(&self, email: &str, password: &str) {
        self.go("/sign-in").await;
        self.fill("email", email).await;
        self.fill("password", password).await;
        self.press("Sign in").await;
        self.wait_for(|text| !text.contains("E-mail address"), "the page after signing in").await;
    }

    pub async fn fill(&self, id: &str, text: &str) {
        let field = self.driver.find(By::Id(id)).await.unwrap_or_else(|_| panic!("no field {id}"));
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Presses the button, or follows the link, of this name, as soon as the page has it.
    pub async fn press(&self, name: &str) {
        let path = format!("//*[self::button or self::a or self::summary][normalize-space()='{name}']");
        for _ in 0..200 {
            if let Ok(element) = self.driver.find(By::XPath(path.as_str())).await {
                element.scroll_into_view().await.unwrap();
                return element.click().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no button {name}; the page says:\n{}", self.text().await);
    }

    pub async fn has(&self, name: &str) -> bool {
        let path = format!("//button[normalize-space()='{name}'] | //a[normalize-space()='{name}']");
        self.driver.find(By::XPath(path)).await.is_ok()
    }

    pub async fn text(&self) -> String {
        match self.driver.find(By::Tag("body")).await {
            Ok(body) => body.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Waits until the page says so, for as long as a live check may take.
    pub async fn sees(&self, sentence: &str) {
        self.wait_for(|text| text.contains(sentence), sentence).await;
    }

    async fn wait_for(&self, wished: impl Fn(&str) -> bool, what: &str) {
        let mut last = String::new();
        for _ in 0..200 {
            last = self.text().await;
            if wished(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never saw {what:?}; the page says:\n{last}");
    }

    /// Moves the mouse over the middle of what this selector finds first.
    pub async fn point_at(&self, selector: &str) {
        let element = self.driver.find(By::Css(selector)).await.unwrap();
        element.scroll_into_view().await.unwrap();
        self.driver.action_chain().move_to_element_center(&element).perform().await.unwrap();
    }

    pub async fn run(&self, script: &str) -> Value {
        self.driver.execute(script, Vec::new()).await.unwrap().json().clone()
    }

    /// What the page tried that its content security policy forbids.
    pub async fn reports(&self) -> Value {
        self.run("return window.reports ?? []").await
    }

    /// No sideways scrolling, nothing that the policy forbids, and nothing that axe calls a violation of
    /// WCAG 2.2 AA.
    pub async fn check_page(&self, what: &str) {
        assert_eq!(self.reports().await, json!([]), "{what} tried what its policy forbids");
        let wide = self
            .run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
            .await;
        assert!(wide.as_i64().unwrap() <= 0, "{what} scrolls sideways by {wide}");
        let axe = crate::support::root().join("target/sdk/node_modules/axe-core/axe.min.js");
        let source = std::fs::read_to_string(&axe).expect("tests/sdk/run has installed axe-core");
        self.driver.execute(source, Vec::new()).await.unwrap();
        let script = "const done = arguments[arguments.length - 1];
            axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })
               .then(found => done(found.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' | '))));";
        let found = self.driver.execute_async(script, Vec::new()).await.unwrap().json().clone();
        assert_eq!(found, json!([]), "{what}");
    }
}
