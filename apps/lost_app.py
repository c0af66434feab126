"""What a page does while the app does not answer, and when another process of it does: it was started anew."""

from __future__ import annotations

# A page of an app that has ended knows adapters, buttons and events that the next one does not: a click would be an
# error in gradio's words. gradio itself looks only where an answer breaks off. Fetches, and no stream of events: a
# browser has six connections for all pages of one address.
HEAD = """<script>
(() => {
  const box = document.createElement("div");
  box.id = "lost-app";
  box.className = "banner";
  box.setAttribute("role", "alert");
  box.append("The app does not answer. When it does again, this page goes on.");
  let looks = false;
  const look = async () => {
    const {root, api_prefix, app_id} = window.gradio_config ?? {};
    if (looks || document.hidden || app_id === undefined) return;
    looks = true;
    let now;  // undefined: no answer, or one of what stands in front of the app
    try {
      const asked = {cache: "no-store", signal: AbortSignal.timeout(20000)};
      const answer = await fetch(`${root}${api_prefix}/app_id`, asked);
      if (answer.ok) now = (await answer.json()).app_id;
    } catch {}
    looks = false;
    if (now === app_id) box.remove();
    else if (now !== undefined) location.reload();
    else if (!box.isConnected) document.body.prepend(box);  // once: a screen reader says it each time
  };
  setInterval(look, 5000);
  document.addEventListener("visibilitychange", look);
  window.addEventListener("focus", look);
})();
</script>"""
