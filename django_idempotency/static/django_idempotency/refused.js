"use strict";
// Sends the form again. By the prototype, because a field of the form may be called "submit".
{
    const form = document.querySelector("main form");
    const seconds = Number(document.currentScript.dataset.seconds);
    setTimeout(() => HTMLFormElement.prototype.submit.call(form), 1000 * seconds);
}
