/* Running the model: starts a run, follows its events, and puts what the server has found so far in place. */
(function () {
  "use strict";
  var holder = document.getElementById("steer-data");
  if (!holder || typeof fetch !== "function" || typeof EventSource !== "function") return;
  var data = JSON.parse(holder.textContent), words = data.words;
  var token = document.querySelector('meta[name="llmxai-token"]').content;
  var run = document.getElementById("run"), cancel = document.getElementById("cancel");
  var status = document.getElementById("steer-status"), said = document.getElementById("steer-said");
  var found = document.getElementById("found"), keep = document.getElementById("keep-form");
  var id = null, active = null, source = null, fetching = false, again = false, sent = null;
  run.hidden = false;

  function ask(method, address, body, more) {
    var how = { method: method, headers: { "content-type": "application/json", "x-llmxai-token": token } };
    if (body !== undefined) how.body = JSON.stringify(body);
    return fetch(address, Object.assign(how, more || {}));
  }
  function say(text) { status.textContent = text; }
  function filled(text, values) {
    return text.replace(/\{(\w+)\}/g, function (whole, name) { return name in values ? values[name] : whole; });
  }
  function fresh() {
    return Array.from(crypto.getRandomValues(new Uint8Array(16)), function (b) { return b.toString(16).padStart(2, "0"); }).join("");
  }

  /* ---- what is asked for --------------------------------------------------------------------------------------- */

  function edits() {
    return Array.from(document.querySelectorAll("fieldset[data-feature]"), function (box) {
      return { feature: Number(box.dataset.feature), how: box.querySelector("select").value, strength: Number(box.querySelector('input[type="number"]').value) };
    });
  }
  function wanted() {
    if (data.do === "steer") return { edits: edits(), new_tokens: Number(document.querySelector('select[name="tokens"]').value) };
    var texts = Array.from(document.querySelectorAll("[data-field]"), function (field) { return field.value === undefined ? null : field.value; });
    return { question: texts[0], options: texts.slice(1) };
  }
  /* The address of the page keeps the setting, so that it can be passed on. */
  function remember() {
    if (data.do !== "steer") return;
    var address = new URL(location.href);
    address.searchParams.set("features", edits().map(function (e) { return e.feature + ":" + e.how + (e.how === "off" ? "" : ":" + e.strength); }).join(","));
    address.searchParams.set("tokens", document.querySelector('select[name="tokens"]').value);
    history.replaceState(null, "", address);
  }

  Array.prototype.forEach.call(document.querySelectorAll("fieldset[data-feature]"), function (box) {
    var range = box.querySelector('input[type="range"]'), number = box.querySelector('input[type="number"]');
    var strength = box.querySelector(".edit-strength"), how = box.querySelector("select");
    range.addEventListener("input", function () { number.value = range.value; });
    number.addEventListener("input", function () { range.value = number.value; });
    function shown() { strength.toggleAttribute("data-off", how.value === "off"); }
    how.addEventListener("change", shown);
    box.addEventListener("change", remember);
    shown();
  });

  /* ---- a run ------------------------------------------------------------------------------------------------------- */

  /* Whoever runs by keyboard stays at the button that can be pressed now. */
  function busy(on) {
    var here = document.activeElement === (on ? run : cancel);
    run.disabled = on;
    cancel.hidden = !on;
    if (here) (on ? cancel : run).focus();
  }
  function stop() {
    if (source) source.close();
    source = null;
    busy(false);
  }
  /* What is found so far, as the server draws it. One request at a time; what came meanwhile is asked for after it. */
  function refresh(of, then) {
    if (fetching) { again = again || {}; again.then = then || again.then; return; }
    fetching = true;
    fetch(data.found + of + (data.view === "researcher" ? "?view=researcher" : "")).then(function (answer) {
      return answer.ok ? answer.text() : null;
    }).then(function (text) {
      if (text !== null && of === id) {
        found.replaceChildren.apply(found, Array.from(new DOMParser().parseFromString(text, "text/html").body.childNodes));
        found.dataset.run = of;
      }
    }).catch(function () { /* The next event asks again. */ }).then(function () {
      fetching = false;
      if (then && of === id) then();
      if (again) { var next = again; again = false; refresh(id, next.then); }
    });
  }
  function over(name) {
    var of = id;
    active = null;
    stop();
    refresh(of, function () {
      var verdict = document.getElementById("verdict"), note = found.querySelector(".sheet");
      say(name === "done" ? words.done : note ? note.textContent.trim() : "");
      said.textContent = name === "done" && verdict ? verdict.textContent.trim() : "";
      if (keep && name === "done") keep.hidden = false;
    });
  }
  function follow(of) {
    source = new EventSource(data.runs + of + "/events");
    function on(name, act) { source.addEventListener(name, function (event) { act(JSON.parse(event.data)); }); }
    on("queued", function (told) { say(filled(words.queued, { n: told.place })); });
    on("loading", function () { say(words.loading); });
    on("opened", function () { say(words.opened); });
    on("baseline", function () { refresh(of); });
    on("edited", function () { refresh(of); });
    on("band", function (told) { say(filled(words.band, told)); refresh(of); });
    on("token", function (told) {
      say(words.token);
      var box = document.getElementById("written"), side = box && box.querySelector('[data-side="' + told.side + '"]');
      if (side) { box.hidden = false; side.textContent = told.text.trim(); }
    });
    ["done", "failed", "cancelled"].forEach(function (name) { on(name, function () { over(name); }); });
    source.onerror = function () {
      if (!source) return;
      if (source.readyState === EventSource.CLOSED) { stop(); say(words.refused); } else say(words.lost);
    };
  }
  function refused(answer) {
    return answer.json().then(function (told) { stop(); say(words.refused + " " + (told.error || "")); });
  }
  run.addEventListener("click", function () {
    remember();
    busy(true);
    say(words.sent);
    said.textContent = "";
    if (keep) keep.hidden = true;
    sent = wanted();
    ask("POST", data.start, sent).then(function (answer) {
      if (!answer.ok) return refused(answer);
      return answer.json().then(function (told) {
        id = active = told.id;
        follow(id);
      });
    }).catch(function () { stop(); say(words.refused); });
  });
  cancel.addEventListener("click", function () {
    if (!id) return;
    say(words.cancelling);
    ask("DELETE", data.runs + id).then(function (answer) { if (!answer.ok) return refused(answer); }).catch(function () { stop(); say(words.lost); });
  });
  /* Who leaves the page does not keep the model busy. */
  window.addEventListener("pagehide", function () { if (active) ask("DELETE", data.runs + active, undefined, { keepalive: true }); });

  /* ---- keeping an edited question ------------------------------------------------------------------------------------ */

  if (!keep) return;
  var entry = null, told = document.getElementById("keep-status");
  try { keep.elements.author.value = localStorage.getItem("llmxai-author") || ""; } catch (error) { /* Storage is switched off. */ }
  keep.addEventListener("input", function () { entry = null; });
  keep.addEventListener("submit", function (event) {
    event.preventDefault();
    entry = entry || fresh();
    try { localStorage.setItem("llmxai-author", keep.elements.author.value); } catch (error) { /* Storage is switched off. */ }
    var body = { answer: keep.elements.answer.value || null, author: keep.elements.author.value, entry_id: entry };
    ask("POST", data.keep, Object.assign(body, sent)).then(function (answer) {
      return answer.json().then(function (row) {
        told.textContent = answer.ok ? words.kept + " " + row.file : words.failed + " " + row.error;
      });
    }).catch(function () { told.textContent = words.failed; });
  });
})();
