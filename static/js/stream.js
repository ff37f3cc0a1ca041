// <form data-stream="#target">: what the server writes is shown in #target as it comes, and the page
// is read anew when it is all there, unless a text on it was changed and not saved. The form's
// data-busy is what its button says meanwhile. Started before submit.js, which leaves a prevented
// submission alone.
export function startStream(root) {
  for (const form of root.querySelectorAll("form[data-stream]")) {
    const target = root.querySelector(form.dataset.stream);
    if (target) form.addEventListener("submit", (event) => onSubmit(event, form, target));
  }
}

async function onSubmit(event, form, target) {
  event.preventDefault();
  if (form.hasAttribute("aria-busy")) return;
  const field = target instanceof HTMLTextAreaElement;
  const question = "What you changed in the text is not saved. Put a new one in its place?";
  if (field && target.value !== target.defaultValue && !confirm(question)) return;
  const button = event.submitter ?? form.querySelector("button");
  const label = button.textContent;
  form.setAttribute("aria-busy", "true");
  button.setAttribute("aria-disabled", "true");
  button.textContent = form.dataset.busy;
  // Read out when it is whole, not with every piece.
  target.setAttribute("aria-busy", "true");
  let text = "";
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      body: new URLSearchParams(new FormData(form)),
      headers: { accept: "text/event-stream" },
    });
    if (answer.headers.get("content-type")?.startsWith("text/event-stream")) {
      document.querySelector(`[data-empty="${form.dataset.stream}"]`)?.remove();
      for await (const event of events(answer.body)) {
        if (!event.text) continue;
        text += event.text;
        target.hidden = false;
        if (field) target.value = text;
        else target.textContent = text;
      }
    }
  } finally {
    target.removeAttribute("aria-busy");
    if (hasUnsaved(target)) {
      form.removeAttribute("aria-busy");
      button.removeAttribute("aria-disabled");
      button.textContent = text ? label : "Nothing was written. Try again";
    } else {
      // However it ended, the page tells, from the text on.
      history.replaceState(null, "", form.dataset.stream);
      location.reload();
    }
  }
}

// Whether another text of the page would be lost.
function hasUnsaved(target) {
  const texts = [...document.querySelectorAll("textarea")];
  return texts.some((one) => one !== target && one.value !== one.defaultValue);
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part.replace(/^data: /, ""));
  }
}
