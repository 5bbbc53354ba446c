/* Accepting or rejecting a proposed label. A retry of the same click carries the same id, so that it is the same decision. */
(function () {
  "use strict";
  var box = document.getElementById("proposed"), status = document.getElementById("proposed-status");
  if (!box || typeof fetch !== "function") return;
  var token = document.querySelector('meta[name="llmxai-token"]').content, author = document.getElementById("proposed-author");
  var ids = {}, busy = false;
  box.querySelectorAll("[hidden]").forEach(function (part) { part.hidden = false; });
  try { author.value = localStorage.getItem("llmxai-author") || ""; } catch (error) { /* Storage is switched off. */ }

  function random() {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), function (b) { return b.toString(16).padStart(2, "0"); }).join("");
  }

  box.addEventListener("click", function (event) {
    var button = event.target.closest("button[data-proposal]");
    if (!button || busy) return;
    if (!author.value.trim()) { status.textContent = box.dataset.nobody; author.focus(); return; }
    try { localStorage.setItem("llmxai-author", author.value); } catch (error) { /* Storage is switched off. */ }
    var click = button.dataset.proposal + button.dataset.decision + author.value;
    ids[click] = ids[click] || random();
    busy = true;
    fetch(box.dataset.address + button.dataset.proposal, {
      method: "POST",
      headers: { "content-type": "application/json", "x-llmxai-token": token },
      body: JSON.stringify({ decision: button.dataset.decision, author: author.value, revision: Number(box.dataset.revision), entry_id: ids[click] })
    }).then(function (answer) {
      return answer.json().then(function (said) {
        if (answer.ok) { status.textContent = box.dataset.saved; location.reload(); return; }
        status.textContent = box.dataset.failed + " " + said.error;
      });
    }).catch(function () { status.textContent = box.dataset.failed; }).finally(function () { busy = false; });
  });
})();
