"use strict";
// The browsable API's forms send the key of their field in a header. DRF's scripts send the forms that a browser
// cannot, by jQuery; this one also sends those that it can.
{
    const FIELD = "[data-idempotency-header]";
    let sent = null; // the field of the form that is being sent

    // RFC 9562, 5.7. randomUUID() makes version 4, and only on https.
    const newKey = () => {
        const bytes = crypto.getRandomValues(new Uint8Array(16));
        let time = Date.now();
        for (let position = 5; position >= 0; position--) {
            bytes[position] = time % 256;
            time = Math.floor(time / 256);
        }
        bytes[6] = (bytes[6] & 0x0f) | 0x70;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
        return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
    };

    for (const field of document.querySelectorAll(FIELD)) {
        field.value ||= newKey();
    }

    const show = (answer) => {
        if ((answer.getResponseHeader("Content-Type") || "").startsWith("text/html")) {
            replaceDocument(answer.responseText); // of DRF's ajax-form.js
        } else {
            const text = document.createElement("pre");
            text.textContent = `HTTP ${answer.status} ${answer.statusText}\n\n${answer.responseText || ""}`;
            document.body.replaceChildren(text);
        }
        scroll(0, 0);
    };

    // Before DRF's own handler.
    document.addEventListener("submit", (event) => {
        const form = event.target;
        sent = form.querySelector(FIELD);
        // By its attributes, because a field of the form may be called "method" or "action".
        const isSentByBrowser = form.getAttribute("method") === "POST" && !form.querySelector("[data-override]");
        if (sent && isSentByBrowser) {
            event.preventDefault();
            jQuery.ajax({
                url: form.getAttribute("action"),
                method: "POST",
                data: new FormData(form),
                contentType: false, // with the boundary, by the browser
                processData: false,
                headers: {Accept: "text/html; q=1.0, */*"},
                complete: show,
            });
        }
    }, true);

    jQuery(document).ajaxSend((event, request) => {
        if (sent && sent.value) {
            request.setRequestHeader(sent.dataset.idempotencyHeader, sent.value);
        }
        sent = null;
    });
}
