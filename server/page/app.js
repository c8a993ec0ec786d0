/** The page of the server: shows the view that the address asks for. */

import { showTasks } from "./tasks.js";
import { photoPanel } from "./photo.js";
import { parseHash } from "./routes.js";
import { showTask } from "./task.js";
import { forgetTokens, showForget } from "./token.js";

const TITLE = "edge-qprompt";
let view = new AbortController();
let homeScroll = 0; // where the reader was on the first page

/** Show what the address says; whatever the view before was waiting for is dropped. */
function show({ moveFocus = true } = {}) {
  view.abort();
  view = new AbortController();
  const { task, version } = parseHash(location.hash);
  const [home, page] = [document.getElementById("home"), document.getElementById("task")];
  if (!home.hidden) homeScroll = scrollY;
  home.hidden = task !== null;
  page.hidden = task === null;
  document.title = task === null ? TITLE : `${task} \u00b7 ${TITLE}`;
  if (task === null) showTasks(view.signal);
  else showTask(page, task, version, view.signal);
  if (!moveFocus) return;
  scrollTo(0, task === null ? homeScroll : 0);
  const heading = [...document.querySelectorAll("main h1")].find((each) => each.checkVisibility());
  (heading ?? document.getElementById("main")).focus({ preventScroll: true });
}

addEventListener("hashchange", () => show());
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the address of a view
  document.getElementById("main").focus();
});
document.getElementById("forget").addEventListener("click", () => { forgetTokens(); show(); });
photoPanel();
showForget();
show({ moveFocus: false });
