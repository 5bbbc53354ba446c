/* Writing a label. A retry carries the same id, so that it is the same entry; a newer label of somebody else is shown. */
(function () {
  "use strict";
  var form = document.getElementById("label-form"), status = document.getElementById("label-status");
  if (!form || typeof fetch !== "function") return;
  var token = document.querySelector('meta[name="llmxai-token"]').content, id = null;
  document.getElementById("label-box").hidden = false;
  try { form.elements.author.value = localStorage.getItem("llmxai-author") || ""; } catch (error) { /* Storage is switched off. */ }
  /* What somebody else has written meanwhile; saving once more replaces it. */
  function newest() {
    return fetch(form.dataset.address.replace(/\/label$/, "")).then(function (answer) { return answer.json(); }).then(function (feature) {
      var last = feature.labels[0];
      form.dataset.revision = last.revision;
      id = null;
      status.textContent = form.dataset.conflict.replace("{label}", last.label).replace("{author}", last.author);
    });
  }

  form.addEventListener("input", function () { id = null; });
  form.addEventListener("submit", function (event) {
    event.preventDefault();
    id = id || Array.from(crypto.getRandomValues(new Uint8Array(16)), function (b) { return b.toString(16).padStart(2, "0"); }).join("");
    var author = form.elements.author.value;
    try { localStorage.setItem("llmxai-author", author); } catch (error) { /* Storage is switched off. */ }
    fetch(form.dataset.address, {
      method: "POST",
      headers: { "content-type": "application/json", "x-llmxai-token": token },
      body: JSON.stringify({ label: form.elements.label.value, author: author, revision: Number(form.dataset.revision), entry_id: id })
    }).then(function (answer) {
      return answer.json().then(function (said) {
        if (answer.ok) { status.textContent = form.dataset.saved; location.reload(); return; }
        if (answer.status === 409) return newest();
        status.textContent = form.dataset.failed + " " + said.error;
      });
    }).catch(function () { status.textContent = form.dataset.failed; });
  });
})();
