// A payment API on NestJS, under @node-idempotency/nestjs, as its README says. Without TypeScript, decorators are calls.
require("reflect-metadata");
const common = require("@nestjs/common");
const { NestFactory } = require("@nestjs/core");
const { Idempotent, NodeIdempotencyModule } = require("@node-idempotency/nestjs");

const CALLERS = { "Token ann-0001": "ann", "Token bob-0002": "bob" };
const WORK = 50; // milliseconds, so that copies overlap
let paid = 0;

class Authentication {
  canActivate(context) {
    const request = context.switchToHttp().getRequest();
    request.caller = CALLERS[request.headers.authorization];
    if (!request.caller) throw new common.UnauthorizedException("Who are you?");
    return true;
  }
}

class Payments {
  async pay(body, request, response) {
    await new Promise((resolve) => setTimeout(resolve, WORK));
    const id = ++paid;
    const payment = { id, amount: body.amount, by: request.caller };
    if (body.amount > 1000) throw new common.HttpException(payment, 402);
    response.header("Location", `/payments/${id}/`);
    return payment;
  }

  count() {
    return { count: paid };
  }
}

function decorate(method, decorators) {
  const descriptor = Object.getOwnPropertyDescriptor(Payments.prototype, method);
  decorators.forEach((decorator) => decorator(Payments.prototype, method, descriptor));
}

[common.Body(), common.Req(), common.Res({ passthrough: true })].forEach((decorator, index) =>
  decorator(Payments.prototype, "pay", index),
);
decorate("pay", [
  common.Post("/"),
  common.HttpCode(201),
  common.UseGuards(Authentication),
  Idempotent({ enforceIdempotency: true }),
]);
decorate("count", [common.Get("/")]);
common.Controller("payments")(Payments);

class Application {}
common.Module({
  imports: [NodeIdempotencyModule.forRootAsync({ storage: { adapter: "memory" } })],
  controllers: [Payments],
})(Application);

NestFactory.create(Application, { logger: false }).then((app) => app.listen(Number(process.env.PORT), "127.0.0.1"));
