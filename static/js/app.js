// The console's one script: starts each small behaviour on the elements that ask for it by
// data-attribute. Every page works without it; nothing here may be the only way to do a thing.
import { startChart } from "./chart.js";
import { startCopy } from "./copy.js";
import { startReveal } from "./reveal.js";
import { startSubmit } from "./submit.js";
import { startSummary } from "./summary.js";
import { startTimes } from "./times.js";

for (const start of [startSummary, startSubmit, startReveal, startCopy, startChart, startTimes]) {
  start(document);
}
