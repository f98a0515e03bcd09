// A payment API on Express, under express-idempotency, as its README says: the handler asks whether there was a hit.
const express = require("express");
const { idempotency, getSharedIdempotencyService } = require("express-idempotency");

const CALLERS = { "Token ann-0001": "ann", "Token bob-0002": "bob" };
const WORK = 50; // milliseconds, so that copies overlap
let paid = 0;

const app = express();
app.use(express.json());

function authenticate(request, response, next) {
  request.caller = CALLERS[request.headers.authorization];
  if (request.caller) next();
  else response.status(401).json({ error: "Who are you?" });
}

app.post("/payments/", authenticate, idempotency(), (request, response) => {
  if (getSharedIdempotencyService().isHit(request)) return;
  setTimeout(() => {
    const id = ++paid;
    response.location(`/payments/${id}/`);
    response.status(request.body.amount > 1000 ? 402 : 201).json({ id, amount: request.body.amount, by: request.caller });
  }, WORK);
});

app.get("/payments/", (request, response) => response.json({ count: paid }));

app.listen(Number(process.env.PORT), "127.0.0.1");
