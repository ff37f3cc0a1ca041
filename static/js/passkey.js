// Passkeys, in three places:
// <form data-passkey-new="{options}"> makes one when it is sent, <form data-passkey-sign-in> signs in with
// one, and <button data-passkey-confirm> inside a form shows that it is them. What the browser answers is
// put into the form's hidden field, and the form goes its usual way. Started before submit.js, which leaves
// a prevented submission alone.
export function startPasskey(root) {
  if (!window.PublicKeyCredential) return;
  for (const form of root.querySelectorAll("form[data-passkey-new]")) {
    answering(form, form, "submit", form.elements.credential, () => make(JSON.parse(form.dataset.passkeyNew)));
  }
  for (const form of root.querySelectorAll("form[data-passkey-sign-in]")) {
    form.hidden = false;
    answering(form, form, "submit", form.elements.credential, () => use(form));
  }
  for (const button of root.querySelectorAll("button[data-passkey-confirm]")) {
    button.hidden = false;
    const form = button.form;
    answering(form, button, "click", form.elements.current_passkey, () => use(form));
  }
}

// Asks once, and sends the form with the answer.
function answering(form, source, kind, field, ask) {
  const error = form.querySelector("[data-passkey-error]");
  let asking = false;
  source.addEventListener(kind, async (event) => {
    if (kind === "submit" && field.value) return;
    event.preventDefault();
    if (asking) return;
    if (kind === "click" && !form.reportValidity()) return;
    asking = true;
    if (error) error.hidden = true;
    try {
      field.value = JSON.stringify(await ask());
      form.requestSubmit(form.querySelector("button:not([type]), button[type=submit]"));
    } catch (problem) {
      if (!error) return;
      // Cancelled, or taken too long: browsers do not tell which.
      error.textContent = problem.name === "NotAllowedError" ? "No passkey was used. Try again." : problem.told
        ?? "That did not work in this browser. Try again, or use another way.";
      error.hidden = false;
    } finally {
      asking = false;
    }
  });
}

async function make(options) {
  options.challenge = bytes(options.challenge);
  options.user.id = bytes(options.user.id);
  for (const known of options.excludeCredentials ?? []) known.id = bytes(known.id);
  const made = await navigator.credentials.create({ publicKey: options });
  return {
    id: made.id, rawId: text(made.rawId), type: made.type, extensions: {},
    response: {
      attestationObject: text(made.response.attestationObject),
      clientDataJSON: text(made.response.clientDataJSON),
      transports: made.response.getTransports?.(),
    },
  };
}

async function use(form) {
  const answer = await fetch("/sign-in/passkey/question", {
    method: "POST",
    body: new URLSearchParams({ csrf: form.elements.csrf.value }),
  });
  if (!answer.ok) {
    const told = answer.status === 429 ? "Too many attempts. Try again in some minutes, or use another way." : undefined;
    throw Object.assign(new Error(`the question was answered with ${answer.status}`), { told });
  }
  const options = await answer.json();
  options.challenge = bytes(options.challenge);
  const used = await navigator.credentials.get({ publicKey: options });
  return {
    id: used.id, rawId: text(used.rawId), type: used.type, extensions: {},
    response: {
      authenticatorData: text(used.response.authenticatorData),
      clientDataJSON: text(used.response.clientDataJSON),
      signature: text(used.response.signature),
      userHandle: used.response.userHandle && text(used.response.userHandle),
    },
  };
}

// base64url, as the wire has it, and bytes, as the browser wants them.
function bytes(encoded) {
  const plain = atob(encoded.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
}

function text(buffer) {
  const plain = String.fromCharCode(...new Uint8Array(buffer));
  return btoa(plain).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
