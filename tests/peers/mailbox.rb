# A Rails application with nothing but Action Mailbox and two mailboxes. Arguments: port, directory, password of the relay ingress.
# `GET /seen` says which mailbox got what; the port that it listens on is the one given.

PORT, DIRECTORY, PASSWORD = ARGV
ENV["RAILS_ENV"] = "production"
ENV["RAILS_INBOUND_EMAIL_PASSWORD"] = PASSWORD
ENV["DATABASE_URL"] = "sqlite3:#{DIRECTORY}/app.sqlite3"

require "rails"
require "active_record/railtie"
require "active_storage/engine"
require "action_mailbox/engine"
require "rack/handler/webrick"

SEEN = []

class Application < Rails::Application
  config.root = DIRECTORY
  config.load_defaults 6.1
  config.eager_load = true
  config.secret_key_base = "x" * 64
  config.hosts.clear
  config.logger = Logger.new($stderr)
  config.active_job.queue_adapter = :inline
  config.action_mailbox.incinerate = false
  config.active_storage.service = :local
  config.active_storage.service_configurations = { local: { service: "Disk", root: "#{DIRECTORY}/files" } }
  config.action_mailbox.ingress = :relay
  config.require_master_key = false
end

class ApplicationMailbox < ActionMailbox::Base
  routing(/^support(\+.*)?@/i => :support)
  routing(/^hidden@/i => :hidden)
  routing(/^case\+/i => :case)
end

class SupportMailbox < ApplicationMailbox
  def process
    SEEN << ["support", mail.subject, mail.decoded]
  end
end

class HiddenMailbox < ApplicationMailbox
  def process
    SEEN << ["hidden", mail.subject, mail.decoded]
  end
end

class CaseMailbox < ApplicationMailbox
  def process
    SEEN << ["case", mail.x_original_to_addresses.map(&:address).join(","), mail.attachments.map(&:filename).join(",")]
  end
end

Application.routes.append { get "/seen", to: ->(_) { [200, { "Content-Type" => "application/json" }, [SEEN.to_json]] } }
Application.initialize!

ActiveRecord::Schema.define do
  create_table :active_storage_blobs do |t|
    t.string :key, null: false
    t.string :filename, null: false
    t.string :content_type
    t.text :metadata
    t.string :service_name, null: false
    t.bigint :byte_size, null: false
    t.string :checksum, null: false
    t.datetime :created_at, null: false
  end
  create_table :active_storage_attachments do |t|
    t.string :name, null: false
    t.references :record, null: false, polymorphic: true, index: false
    t.references :blob, null: false
    t.datetime :created_at, null: false
  end
  create_table :active_storage_variant_records do |t|
    t.belongs_to :blob, null: false
    t.string :variation_digest, null: false
  end
  create_table :action_mailbox_inbound_emails do |t|
    t.integer :status, default: 0, null: false
    t.string :message_id, null: false
    t.string :message_checksum, null: false
    t.timestamps
    t.index [:message_id, :message_checksum], name: "index_action_mailbox_inbound_emails_uniqueness", unique: true
  end
end

Rack::Handler::WEBrick.run(Application, Host: "127.0.0.1", Port: PORT.to_i)
