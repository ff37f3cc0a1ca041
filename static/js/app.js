// The console's one script: starts each small behaviour on the elements that ask for it by
// data-attribute. Every page works without it; nothing here may be the only way to do a thing.
import { startChart } from "./chart.js";
import { startCopy } from "./copy.js";
import { startFill } from "./fill.js";
import { startPasskey } from "./passkey.js";
import { startReveal } from "./reveal.js";
import { startStream } from "./stream.js";
import { startSubmit } from "./submit.js";
import { startSummary } from "./summary.js";
import { startTimes } from "./times.js";

for (const start of [
  startSummary, startStream, startPasskey, startSubmit, startReveal, startCopy, startFill, startChart, startTimes,
]) {
  start(document);
}
